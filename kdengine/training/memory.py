"""How many lanes fit beside each other."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import psutil
import torch

from kdengine.training.lane import Lane

__all__ = ["CROWDED", "bytes_of", "free_bytes"]

CROWDED = 0.5
"""Share of the free memory that lanes may fill; the rest is for batches, activations and what was estimated too low."""

COPIES = 5
"""Weights, gradients, two moments of an optimizer, and the best weights so far."""

CGROUP = Path("/sys/fs/cgroup")


def bytes_of(lane: Lane) -> int:
    """Memory that a lane keeps from batch to batch, in bytes: of all its networks and connectors, several copies."""
    tensors = chain.from_iterable((*step.module.parameters(), *step.module.buffers()) for step in lane.chain)
    return COPIES * sum({id(tensor): tensor.numel() * tensor.element_size() for tensor in tensors}.values())


def free_bytes(device: torch.device) -> int:
    """Memory that is free on a device, in bytes; on the CPU no more than the limit of the container leaves."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    available = int(psutil.virtual_memory().available)
    allowed = _allowance(CGROUP)
    return available if allowed is None else min(available, allowed)


def _allowance(cgroup: Path) -> int | None:
    """What a container's limit leaves, in bytes; None without a limit."""
    try:
        limit, used = (int((cgroup / name).read_text()) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):  # no cgroup of this kind, or the limit is the word 'max'
        return None
    return max(0, limit - used)
