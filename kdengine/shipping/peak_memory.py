"""The memory that one forward needs at its peak."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from kdengine.taps.tensors import tensors_in

__all__ = ["peak_bytes", "weight_bytes"]


def weight_bytes(network: nn.Module) -> int:
    """Bytes of all parameters and buffers; shared ones count once."""
    storages = (tensor.untyped_storage() for tensor in chain(network.parameters(), network.buffers()))
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def peak_bytes(network: nn.Module, images: Tensor) -> int:
    """Bytes of weights, images and activations that are alive at once, at most, in a forward without gradients.

    On CUDA, as its allocator counts them, with the workspaces of kernels; elsewhere, the tensors that the operations return.

    Args:
        network: on the device of the images, in ``eval()``.
        images: [B, C, H, W].
    """
    held = weight_bytes(network) + images.untyped_storage().nbytes()
    if images.device.type == "cuda":
        torch.cuda.synchronize(images.device)
        torch.cuda.reset_peak_memory_stats(images.device)
        before = torch.cuda.memory_allocated(images.device)
        with torch.no_grad():
            network(images)
        torch.cuda.synchronize(images.device)
        return held + int(torch.cuda.max_memory_allocated(images.device)) - before
    live = _Live([images, *network.parameters(), *network.buffers()])
    with torch.no_grad(), live:
        network(images)
    return held + live.peak


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the storages that operations make, while they live.

    Args:
        known: tensors whose storages do not count.
    """

    def __init__(self, known: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._now = 0
        self._seen = WeakIdKeyDictionary()
        for tensor in known:
            self._seen[tensor.untyped_storage()] = True
        self._known = known  # a storage that nobody holds would be forgotten

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None) -> Any:
        output = func(*args, **(kwargs or {}))
        for tensor in tensors_in(output):
            storage = tensor.untyped_storage()
            if storage not in self._seen:
                self._seen[storage] = True
                self._now += storage.nbytes()
                weakref.finalize(storage, self._freed, storage.nbytes())
        self.peak = max(self.peak, self._now)
        return output

    def _freed(self, count: int) -> None:
        self._now -= count
