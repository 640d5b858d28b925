"""Checks while training that an epoch shows every image exactly once."""

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
    """The same batches, with a check at the end of each epoch that every image came exactly once.

    Attributes:
        batches: batches of a data set that kdengine loads; they have an index.
        samples: images in the data set.
        batch_size: images in each batch but the last.
        left_out: images of an epoch that do not come because their batch would be too small.
    """

    batches: Batches
    samples: int
    batch_size: int
    left_out: int = 0

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from the ``start``-th on. The check costs one pass over all indices [N].

        Raises:
            TrainingError: an image came twice or never; raised only if the epoch is read to its end.
        """
        seen: list[Tensor] = []
        for batch in self.batches.epoch(number, start):
            if batch.index is not None:
                seen.append(batch.index)
            yield batch
        self.check(number, seen, max(0, self.samples - self.left_out - start * self.batch_size))

    def check(self, number: int, seen: Sequence[Tensor], due: int) -> None:
        """Refuse an epoch that did not show each image exactly once.

        Args:
            number: the epoch, from 0.
            seen: positions of the images shown, one tensor [B] for each batch.
            due: how many images there should have been.

        Raises:
            TrainingError: an image came twice or never.
        """
        counts = torch.bincount(torch.cat(tuple(seen)).cpu(), minlength=self.samples) if seen else torch.zeros(self.samples)
        came = int((counts > 0).sum())
        repeated = int((counts > 1).sum())
        if repeated or came != due:
            raise TrainingError(
                f"Epoch {number + 1} should show {due} images once each, but {max(0, due - came)} never came and {repeated} "
                "came more than once, so its numbers mean nothing. No setting causes this; it is a bug in the data set or in "
                "kdengine. Does the data set change while it is read?"
            )
