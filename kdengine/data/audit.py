"""Checks while training that an epoch is what it is said to be: every image once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kdengine.data.batches import Batch, Batches
from kdengine.errors import TrainingError

__all__ = ["AuditedBatches"]


@dataclass(frozen=True)
class AuditedBatches:
    """The same batches; at the end of an epoch it is known that each image came once.

    Attributes:
        batches: of a data set that kdengine loads.
        samples: images in the set.
        batch_size: images in each batch but the last.
    """

    batches: Batches
    samples: int
    batch_size: int

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from the ``start``-th on; costs one look at all indices [N] at its end.

        Raises:
            TrainingError: an image came twice or never; only where the epoch was read to its end.
        """
        seen: list[Tensor] = []
        for batch in self.batches.epoch(number, start):
            seen.append(batch.index)
            yield batch
        self.check(number, seen, max(0, self.samples - start * self.batch_size))

    def check(self, number: int, seen: Sequence[Tensor], due: int) -> None:
        """Refuse an epoch that did not show each image once.

        Args:
            number: of the epoch, from 0.
            seen: positions of the images, a tensor [B] for each batch.
            due: how many there should have been.

        Raises:
            TrainingError: an image came twice or never.
        """
        counts = torch.bincount(torch.cat(tuple(seen)).cpu(), minlength=self.samples) if seen else torch.zeros(self.samples)
        came = int((counts > 0).sum())
        repeated = int((counts > 1).sum())
        if repeated or came != due:
            raise TrainingError(
                f"Epoch {number + 1} was to show {due} images once each, but {max(0, due - came)} never came and {repeated} "
                "came more than once, so its numbers mean nothing. This is a fault of the data set or of kdengine, not of "
                "the settings: does the data set change while it is read?"
            )
