"""Copies from the host to the device of a run."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.utils.data import DataLoader

__all__ = ["constant", "moved"]


def moved(tensor: Tensor, device: torch.device, source: object = None) -> Tensor:
    """A tensor on a device; to a GPU by way of pinned memory, so that the host waits for nothing that runs there.

    Args:
        tensor: any tensor.
        device: where it goes.
        source: the loader that it comes from; unless it is torch's, it may write to its pinned tensors again, so the copy has
            to be complete on return.
    """
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    if not tensor.is_pinned():
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device, non_blocking=source is None or isinstance(source, DataLoader))


@lru_cache(maxsize=64)
def constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Numbers as a tensor [N], created once per device; nobody may write to it."""
    with torch.inference_mode(False):
        return torch.tensor(values, device=device)
