"""Batches, what all sources of them have in common, and batches of images that are held in memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from kdengine.data.augmentation import Augmentation
from kdengine.data.draws import hashed
from kdengine.data.masks import apart, joined
from kdengine.transfer import constant, moved

__all__ = [
    "Batch",
    "Batches",
    "ImageBatches",
    "MemoryBatches",
    "ShardedBatches",
    "generator_for",
]

CPU = torch.device("cpu")
NONE = Augmentation()
SECOND_VIEW = 1
"""Sets the draws of the second view apart from those of the first."""


@dataclass(frozen=True)
class Batch:
    """One batch; its length is the number of images.

    Attributes:
        x: normalised images, float [B, C, H, W].
        y: class indices, int64 [B]; or what the task of the data takes, such as masks, int64 [B, H, W].
        index: position of each image in the data set, int64 [B]; None if a loader of the user's own does not give it.
        views: further augmentations of the same images, like ``x``, if methods need them.
        shares: for each of the processes that share a batch, the images that it answers for; empty if that is not known.
        rank: which of these processes this is.
        positions: ``index`` in the memory of the host, where it can be read without waiting for a device; None if unknown.
    """

    x: Tensor
    y: Tensor
    index: Tensor | None
    views: tuple[Tensor, ...] = ()
    shares: tuple[int, ...] = ()
    rank: int = 0
    positions: Tensor | None = None

    @property
    def is_counted(self) -> bool:
        """Whether the images count in metrics; false if another process has the same ones and answers for them."""
        return not self.shares or self.shares[self.rank] > 0

    @property
    def weight(self) -> float:
        """What a mean over the images counts for in the mean of all processes; 1 if all have as many."""
        if not self.shares or 0 in self.shares:
            return 1.0
        return self.shares[self.rank] * len(self.shares) / sum(self.shares)

    def weighed(self, terms: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Loss terms of these images as processes have to average them, so that each image counts the same."""
        return terms if self.weight == 1 else {name: value * self.weight for name, value in terms.items()}

    def view(self, number: int) -> Tensor:
        """One view of the images; 0 is ``x``."""
        return self.x if number == 0 else self.views[number - 1]

    def __len__(self) -> int:
        return len(self.x)


class Batches(Protocol):
    """A source of batches. The same epoch number gives the same batches, in the same order."""

    def __len__(self) -> int:
        """Batches in an epoch."""

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, counted from 0; with ``start``, the same batches without the first ``start``."""


@dataclass(frozen=True)
class ShardedBatches:
    """Each process's share of the batches: every ``processes``-th image of each batch, starting at ``rank``.

    All processes make the same batches, so that images and augmentation do not depend on the number of processes.
    """

    batches: Batches
    rank: int
    processes: int

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """This process's share; if a last batch has fewer images than there are processes, each gets all of it."""
        mine = slice(self.rank, None, self.processes)
        for batch in self.batches.epoch(number, start):
            share = mine if len(batch) >= self.processes else slice(None)
            index, positions = (None if one is None else one[share] for one in (batch.index, batch.positions))
            views = tuple(view[share] for view in batch.views)
            yield Batch(batch.x[share], batch.y[share], index, views, self._shares(len(batch)), self.rank, positions)

    def _shares(self, images: int) -> tuple[int, ...]:
        """How many of the images of a batch each process answers for: the first one alone for what all have."""
        if images < self.processes:
            return (images, *(0 for _ in range(self.processes - 1)))
        return tuple(len(range(rank, images, self.processes)) for rank in range(self.processes))


def generator_for(seed: int, epoch: int) -> torch.Generator:
    """A generator that depends on the seed and the epoch alone, so that any epoch can be repeated."""
    return torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)


@dataclass(frozen=True)
class ImageBatches(ABC):
    """Batches of uint8 images, wherever the images come from: the order, augmentation and normalisation of them all.

    The images of an epoch depend on seed, epoch and position alone, never on how they are read: subclasses differ only in
    :meth:`read`.

    Attributes:
        images: where the images come from; N of them.
        labels: int64 [N]; or what the task of the data takes, [N, ...].
        mean: per channel, on the scale 0 to 1.
        std: per channel, on the scale 0 to 1.
        batch_size: images in a batch; the last one may be smaller.
        seed: seed of order and augmentation; None for neither.
        augmentation: what happens to each image if there is a seed.
        device: where batches end up.
        drop_last: leave out a last batch that is smaller than the others.
        weights: how often to draw each image, relative to the others, [N]: an epoch then consists of N images drawn with
            replacement; None to show each exactly once.
        second: what happens to the second view of each image, if methods need one; None for no such view.
        masked: whether images come with masks, which are augmented like the first view and take the place of labels.
    """

    images: Any
    labels: Tensor
    mean: Sequence[float]
    std: Sequence[float]
    batch_size: int
    seed: int | None = None
    augmentation: Augmentation = NONE
    device: torch.device = CPU
    drop_last: bool = False
    weights: Tensor | None = None
    second: Augmentation | None = None
    masked: bool = False

    @abstractmethod
    def read(self, batches: Sequence[Tensor], epoch: int) -> Iterator[Tensor]:
        """The images of some batches as an epoch shows them, augmented, uint8 [B, C, H, W], or [B, 2, C, H, W] in two views.

        With masks, there is one more channel, as :func:`~kdengine.data.masks.joined` makes it.

        Args:
            batches: the draws of each batch, int64 [B]: N times how often the epoch has shown an image already, plus
                its position.
            epoch: of which they are, from 0.
        """

    def __len__(self) -> int:
        whole, rest = divmod(len(self.images), self.batch_size)
        return whole + bool(rest and not self.drop_last)

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from the ``start``-th on; shuffled and augmented if there is a seed.

        Raises:
            DataError: an image that is read as needed cannot be read.
        """
        order, chosen = self._order(number), slice(start, len(self))
        indices, draws = (torch.split(one, self.batch_size)[chosen] for one in (order, self._draws(order)))
        for index, images in zip(indices, self.read(draws, number), strict=True):
            views = [images] if self.second is None else images.unbind(1)
            if self.masked:
                parts = [apart(view) for view in views]
                labels, views = moved(parts[0][1].long(), self.device), [view for view, _ in parts]
            else:
                labels = moved(self.labels[moved(index, self.labels.device)], self.device)
            x, *further = (self._normalised(view.contiguous()) for view in views)
            yield Batch(x, labels, moved(index, self.device), tuple(further), positions=index)

    def _order(self, epoch: int) -> Tensor:
        """Positions of the images in the order of an epoch, int64 [N]."""
        if self.seed is None:
            return torch.arange(len(self.images))
        random = generator_for(self.seed, epoch)
        if self.weights is None:
            return torch.randperm(len(self.images), generator=random)
        return torch.multinomial(self.weights.double(), len(self.images), replacement=True, generator=random)

    def _draws(self, order: Tensor) -> Tensor:
        """Numbers that tell apart the times that an epoch shows an image, for each of an order, int64 [N]; see :meth:`read`."""
        if self.weights is None:
            return order
        images, places = order.sort(stable=True)
        counts = order.bincount(minlength=len(self.images))
        before = torch.arange(len(order)) - (counts.cumsum(0) - counts)[images]
        return order + len(self.images) * torch.empty_like(order).index_copy_(0, places, before)

    def shown(self, images: Tensor, index: Tensor, epoch: int) -> Tensor:
        """Images, uint8 [B, C, H, W], as an epoch shows them, [B, 2, C, H, W] in two views; ``index`` [B] has their draws."""
        seed = self.seed
        first = images if seed is None else self.augmentation(images, index, seed, epoch, self.masked)
        if self.second is None:
            return first
        if seed is None:
            return torch.stack([first, images], 1)
        plain = images[:, :-1] if self.masked else images
        second = self.second(plain, index, hashed(seed, SECOND_VIEW), epoch)
        if self.masked:  # a channel that only fills the space: the mask is that of the first view
            second = torch.cat([second, images[:, -1:]], 1)
        return torch.stack([first, second], 1)

    def _normalised(self, images: Tensor) -> Tensor:
        shape = (1, -1, 1, 1)
        mean = constant(tuple(self.mean), self.device).view(shape) * 255
        std = constant(tuple(self.std), self.device).view(shape) * 255
        return (moved(images, self.device).float() - mean) / std


@dataclass(frozen=True)
class MemoryBatches(ImageBatches):
    """Batches of images that are held in one tensor, ``images``: uint8 [N, C, H, W]; masks are ``labels``, uint8 [N, H, W]."""

    images: Tensor

    def read(self, batches: Sequence[Tensor], epoch: int) -> Iterator[Tensor]:
        """The images of some batches, augmented, uint8 [B, C, H, W] each, on the device that holds the tensor."""
        for draws in batches:
            index = draws % len(self.images)
            images = self.images[moved(index, self.images.device)]
            if self.masked:
                images = joined(images, self.labels[moved(index, self.labels.device)])
            yield self.shown(images, draws, epoch)
