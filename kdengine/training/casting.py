"""The autocast state of a forward, as losses and methods need it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor

__all__ = ["casting", "precision_of"]


def casting(x: Tensor) -> str:
    """The tensor's device type for autocast; ``cpu`` for devices without autocast, such as meta."""
    kind = x.device.type
    return kind if torch.amp.is_autocast_available(kind) else "cpu"


def precision_of(device: str) -> Callable[[], AbstractContextManager[object]]:
    """A factory of contexts that restore the current autocast state."""
    dtype, enabled = torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
    return lambda: torch.autocast(device, dtype=dtype, enabled=enabled)
