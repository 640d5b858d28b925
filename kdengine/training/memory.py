"""Memory estimates that decide how many lanes train side by side."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import psutil
import torch

from kdengine.training.lane import Lane

__all__ = ["CROWDED", "bytes_of", "free_bytes"]

CROWDED = 0.5
"""Share of the free memory that lanes may use; the rest is for batches, activations and estimation errors."""

COPIES = 5
"""Weights, gradients, two moments of an optimizer, and the best weights so far. On a GPU, there is one more, by the guard."""

CGROUP = Path("/sys/fs/cgroup")


def bytes_of(lane: Lane) -> int:
    """Memory that a lane holds between batches, in bytes: several copies of all its networks and connectors."""
    tensors = chain.from_iterable((*step.module.parameters(), *step.module.buffers()) for step in lane.chain)
    copies = COPIES + lane.runtime.asynchronous
    return copies * sum({id(tensor): tensor.numel() * tensor.element_size() for tensor in tensors}.values())


def free_bytes(device: torch.device) -> int:
    """Free memory of a device, in bytes; on the CPU, limited by the container."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    available = int(psutil.virtual_memory().available)
    allowed = _allowance(CGROUP)
    return available if allowed is None else min(available, allowed)


def _allowance(cgroup: Path) -> int | None:
    """Bytes left below the container's memory limit; None without a limit."""
    try:
        limit, used = (int((cgroup / name).read_text()) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):  # not cgroup v2, or the limit is 'max'
        return None
    return max(0, limit - used)
