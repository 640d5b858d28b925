"""Copies between the host and the device of a run, for which neither waits."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

__all__ = ["Arriving", "constant", "in_channels_last", "moved"]


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


def in_channels_last(model: nn.Module) -> None:
    """Lay out the weights and buffers of a network [A, B, H, W] in ``channels_last``; those of any other rank stay.

    ``Module.to`` does the same, but refuses networks with weights of five dimensions, as of three-dimensional convolutions.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.ndim == 4:
            tensor.data = tensor.data.to(memory_format=torch.channels_last)


@lru_cache(maxsize=64)
def constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Numbers as a tensor [N], created once per device; nobody may write to it."""
    with torch.inference_mode(False):
        return torch.tensor(values, device=device)


class Arriving:
    """A tensor on its way to the host.

    From a GPU, the copy into pinned memory is only queued here; whoever reads it waits for that copy, not for work queued after
    it. Elsewhere the copy waits, so it is made on reading.

    Args:
        tensor: on any device; nobody may write to it until it has been read.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        self._ready: torch.cuda.Event | None = None
        if tensor.is_cuda:
            self._tensor = torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor, non_blocking=True)
            self._ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._ready.record(torch.cuda.current_stream(tensor.device))

    def read(self) -> Tensor:
        """The tensor in the memory of the host."""
        if self._ready is not None:
            self._ready.synchronize()
        return self._tensor.cpu()
