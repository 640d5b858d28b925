"""Numbers on a device that are read later, so that nothing waits for the device when they are taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["Deferred"]


@dataclass
class Deferred:
    """Named scalars on their way to the CPU.

    On CUDA, the copy into pinned memory is only queued here; :meth:`read` waits for that copy, not for work queued after it.
    By the time of the next reading it has long been made.

    Attributes:
        step: the step that they belong to.
        names: names of the scalars.
        values: their values, [N], valid once ``ready`` has happened.
        ready: when the copy is made; None if there is nothing to wait for.
    """

    step: int
    names: tuple[str, ...]
    values: Tensor
    ready: torch.cuda.Event | None = field(default=None, repr=False)

    @classmethod
    def of(cls, step: int, terms: Mapping[str, Tensor]) -> Deferred:
        """Start to copy detached scalars, each [], on any device.

        Args:
            step: the step that they belong to.
            terms: the scalars by name.
        """
        stacked = torch.stack([value.float() for value in terms.values()]) if terms else torch.empty(0)
        if stacked.device.type != "cuda":
            return cls(step, tuple(terms), stacked)  # elsewhere the copy waits, so it is made on reading
        values = torch.empty(stacked.shape, dtype=stacked.dtype, pin_memory=True).copy_(stacked, non_blocking=True)
        ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
        ready.record(torch.cuda.current_stream(stacked.device))
        return cls(step, tuple(terms), values, ready)

    def read(self) -> dict[str, float]:
        """The scalars as plain numbers."""
        if self.ready is not None:
            self.ready.synchronize()
        return dict(zip(self.names, self.values.tolist(), strict=True))
