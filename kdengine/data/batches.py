"""Batches, what all sources of them have in common, and batches of images that are held in memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "Batch",
    "Batches",
    "ImageBatches",
    "MemoryBatches",
    "ShardedBatches",
    "generator_for",
    "random_crop",
    "random_flip",
]

PADDING = 4
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Batch:
    """One batch; its length is the number of images.

    Attributes:
        x: normalised images, float [B, C, H, W].
        y: class indices, int64 [B].
        index: position of each image in the data set, int64 [B]; None if a loader of the user's own does not give it.
    """

    x: Tensor
    y: Tensor
    index: Tensor | None

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
            yield Batch(batch.x[share], batch.y[share], None if batch.index is None else batch.index[share])


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
        labels: int64 [N].
        mean: per channel, on the scale 0 to 1.
        std: per channel, on the scale 0 to 1.
        batch_size: images in a batch; the last one may be smaller.
        seed: seed of order and augmentation; None for neither.
        augment: ``"none"``, ``"crop"`` or ``"crop-flip"``.
        device: where batches end up.
    """

    images: Any
    labels: Tensor
    mean: Sequence[float]
    std: Sequence[float]
    batch_size: int
    seed: int | None = None
    augment: str = "none"
    device: torch.device = CPU

    @abstractmethod
    def read(self, batches: Sequence[Tensor], epoch: int) -> Iterator[Tensor]:
        """The images of some batches, uint8 [B, C, H, W] each.

        Args:
            batches: positions of the images of each batch, int64 [B].
            epoch: of which they are, from 0.
        """

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch_size)

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, each image exactly once; shuffled and augmented if there is a seed.

        Raises:
            DataError: an image that is read as needed cannot be read.
        """
        order = torch.arange(len(self.images))
        random = None
        if self.seed is not None:
            random = generator_for(self.seed, number)
            order = torch.randperm(len(self.images), generator=random)
        indices = torch.split(order, self.batch_size)
        if random is not None:
            self._skip(indices[:start], random)
        indices = indices[start:]
        for index, images in zip(indices, self.read(indices, number), strict=True):
            if random is not None:
                images = self._augmented(images, random)
            labels = self.labels[index.to(self.labels.device)].to(self.device)
            yield Batch(self._normalised(images), labels, index.to(self.device))

    def _skip(self, indices: Sequence[Tensor], random: torch.Generator) -> None:
        """Make the draws that augmenting some batches would make: on images of one pixel, which costs next to nothing."""
        for index in indices:
            self._augmented(torch.empty(len(index), 1, 1, 1, dtype=torch.uint8), random)

    def _augmented(self, images: Tensor, random: torch.Generator) -> Tensor:
        if self.augment in ("crop", "crop-flip"):
            images = random_crop(images, PADDING, random)
        return random_flip(images, random) if self.augment == "crop-flip" else images

    def _normalised(self, images: Tensor) -> Tensor:
        shape = (1, -1, 1, 1)
        mean = torch.tensor(self.mean, device=self.device).view(shape) * 255
        std = torch.tensor(self.std, device=self.device).view(shape) * 255
        return (images.to(self.device).float() - mean) / std


@dataclass(frozen=True)
class MemoryBatches(ImageBatches):
    """Batches of images that are held in one tensor, ``images``: uint8 [N, C, H, W]."""

    images: Tensor

    def read(self, batches: Sequence[Tensor], epoch: int) -> Iterator[Tensor]:
        """The images of some batches, uint8 [B, C, H, W] each, on the device that holds the tensor."""
        for index in batches:
            yield self.images[index.to(self.images.device)]


def random_crop(images: Tensor, padding: int, random: torch.Generator) -> Tensor:
    """Pad images [B, C, H, W] with zeros on all sides, and crop each to its old size at a random position of its own."""
    count, _, height, width = images.shape
    top, left = torch.randint(0, 2 * padding + 1, (2, count, 1), generator=random).to(images.device)
    rows = (top + torch.arange(height, device=images.device))[:, :, None]
    columns = (left + torch.arange(width, device=images.device))[:, None, :]
    padded = F.pad(images, [padding] * 4).permute(0, 2, 3, 1)
    picked = torch.arange(count, device=images.device)[:, None, None]
    return padded[picked, rows, columns].permute(0, 3, 1, 2)


def random_flip(images: Tensor, random: torch.Generator) -> Tensor:
    """Mirror each image of [B, C, H, W] left to right with probability one half."""
    flip = torch.rand(len(images), generator=random).to(images.device) < 0.5
    return torch.where(flip[:, None, None, None], images.flip(3), images)
