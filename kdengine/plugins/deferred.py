"""Numbers on a device that are read later, so that nothing waits for the device when they are taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from kdengine.transfer import Arriving

__all__ = ["Deferred"]


@dataclass(frozen=True)
class Deferred:
    """Named scalars on their way to the host.

    By the time of the next reading, the copy has long been made.

    Attributes:
        step: the step that they belong to.
        names: names of the scalars.
        values: their values, [N].
    """

    step: int
    names: tuple[str, ...]
    values: Arriving

    @classmethod
    def of(cls, step: int, terms: Mapping[str, Tensor]) -> Deferred:
        """Start to copy detached scalars, each [], on any device.

        Args:
            step: the step that they belong to.
            terms: the scalars by name.
        """
        stacked = torch.stack([value.float() for value in terms.values()]) if terms else torch.empty(0)
        return cls(step, tuple(terms), Arriving(stacked))

    def read(self) -> dict[str, float]:
        """The scalars as plain numbers."""
        return dict(zip(self.names, self.values.read().tolist(), strict=True))
