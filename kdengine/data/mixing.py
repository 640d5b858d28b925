"""Batches whose images are mixed with one another: the teacher and every student see the same mixed images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from torch import Tensor

from kdengine.data.batches import Batch, Batches
from kdengine.data.draws import hashed
from kdengine.seeds import seeded

__all__ = ["MixedBatches"]


@dataclass(frozen=True)
class MixedBatches:
    """The same batches, mixed; the draws of a batch depend on seed, epoch and its number alone.

    Attributes:
        batches: normalised images and their targets.
        mix: (images [B, C, H, W], targets) -> the same, mixed; it draws from torch's global state.
        seed: of the run.
    """

    batches: Batches
    mix: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    seed: int

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from the ``start``-th on."""
        for place, batch in enumerate(self.batches.epoch(number, start), start):
            with seeded(hashed(self.seed, number, place)):
                images, targets = self.mix(batch.x, batch.y)
            yield replace(batch, x=images, y=targets)
