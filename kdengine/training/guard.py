"""Refusing a step on the device: what is not finite changes no weight, and the host learns of it a step later."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from kdengine.transfer import Arriving

__all__ = ["Guard", "Verdict"]

INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integers by their size in bytes."""


class Verdict:
    """Whether all steps so far were finite: a number on its way from the device.

    Args:
        fine: the answer, bool [], on the device.
    """

    def __init__(self, fine: Tensor) -> None:
        self._fine = Arriving(fine)

    @property
    def is_fine(self) -> bool:
        """The answer; waits until the device has come to it, but not for what it was given to do since."""
        return bool(self._fine.read().numpy())


class Guard:
    """Keeps weights as they were before the first step that is not finite, whatever optimizer updates them.

    From that step on, updates are undone on the device: differences of the integers that stand for the same bits are exact,
    also where the numbers are NaN. Buffers, such as the statistics of batch normalisation, stay as the forward of that step
    left them. What the optimizer keeps for itself is of no use any more, because the lane ends there.

    Args:
        weights: what the optimizer updates; it stays where it is in memory.
        buffers: what forwards update.
    """

    def __init__(self, weights: Iterable[Tensor], buffers: Iterable[Tensor]) -> None:
        self._weights, self._buffers = _Bits(weights), _Bits(buffers)
        self._fine: Tensor | None = None

    def note(self, value: Tensor) -> None:
        """Take a number [] of a step into account, after its forward: the step is refused if it is not finite."""
        if self._fine is None:
            self._fine = value.isfinite()
        else:
            self._buffers.restore_unless(self._fine)
            self._fine = self._fine & value.isfinite()
        self._buffers.keep()

    @contextmanager
    def undoing(self) -> Iterator[None]:
        """Undo what happens to the weights inside, if a step was refused."""
        assert self._fine is not None
        self._weights.keep()
        yield
        self._weights.restore_unless(self._fine)

    def verdict(self) -> Verdict:
        """Whether all steps so far were finite."""
        assert self._fine is not None
        return Verdict(self._fine)


class _Bits:
    """The bits of tensors, of which a copy can be kept; a handful of kernels, however many tensors there are."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self._now: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            kind = INTEGERS[tensor.element_size()]
            self._now.setdefault(kind, []).append(tensor.detach().view(kind))
        self._kept: dict[torch.dtype, list[Tensor]] = {}

    def keep(self) -> None:
        """Copy the tensors as they are now."""
        for kind, tensors in self._now.items():
            if kind not in self._kept:
                self._kept[kind] = [torch.empty_like(tensor) for tensor in tensors]
            torch._foreach_copy_(self._kept[kind], tensors)

    def restore_unless(self, fine: Tensor) -> None:
        """Make the tensors what they were when they were kept, unless ``fine``, bool []."""
        for kind, tensors in self._now.items():
            torch._foreach_sub_(tensors, self._kept[kind])  # wraps around, so nothing is lost
            torch._foreach_mul_(tensors, fine.to(kind))
            torch._foreach_add_(tensors, self._kept[kind])
