"""Batches of images that lie in one tensor in memory, and what all batches have in common."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "Batch",
    "Batches",
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
    """Normalised images x [B, C, H, W], class indices y [B], and each image's position in the set, index [B]."""

    x: Tensor
    y: Tensor
    index: Tensor


class Batches(Protocol):
    """A source of batches. The same epoch number gives the same batches, in the same order."""

    def __len__(self) -> int:
        """Batches in an epoch."""

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, counted from 0, from the ``start``-th on: those that a whole epoch gives from there."""


@dataclass(frozen=True)
class ShardedBatches:
    """Each process's share of the batches: every ``processes``-th image of each, beginning at ``rank``.

    All processes make the same batches, so that the images and their augmentation do not depend on how many there are.
    """

    batches: Batches
    rank: int
    processes: int

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """This process's share; a last batch with fewer images than processes is given to each of them whole."""
        mine = slice(self.rank, None, self.processes)
        for batch in self.batches.epoch(number, start):
            share = mine if len(batch.y) >= self.processes else slice(None)
            yield Batch(batch.x[share], batch.y[share], batch.index[share])


def generator_for(seed: int, epoch: int) -> torch.Generator:
    """A generator that depends on the seed and the epoch alone, so that any epoch can be repeated."""
    return torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)


@dataclass(frozen=True)
class MemoryBatches:
    """Batches of images that lie in one tensor.

    Attributes:
        images: uint8 [N, C, H, W].
        labels: int64 [N].
        mean: per channel, on the scale 0 to 1.
        std: per channel, on the scale 0 to 1.
        batch_size: images in a batch; the last one may be smaller.
        seed: seed of order and augmentation; None for neither.
        augment: ``"none"``, ``"crop"`` or ``"crop-flip"``.
        device: where batches are made.
    """

    images: Tensor
    labels: Tensor
    mean: Sequence[float]
    std: Sequence[float]
    batch_size: int
    seed: int | None = None
    augment: str = "none"
    device: torch.device = CPU

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch_size)

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch: shuffled and augmented where there is a seed, each image exactly once."""
        order = torch.arange(len(self.images))
        random = None
        if self.seed is not None:
            random = generator_for(self.seed, number)
            order = torch.randperm(len(self.images), generator=random)
        indices = torch.split(order, self.batch_size)
        if random is not None:
            self._skip(indices[:start], random)
        for index in indices[start:]:
            images = self.images[index.to(self.images.device)]
            if random is not None:
                images = self._augmented(images, random)
            index = index.to(self.device)
            yield Batch(self._normalised(images), self.labels[index.to(self.labels.device)].to(self.device), index)

    def _skip(self, indices: Sequence[Tensor], random: torch.Generator) -> None:
        """Draw what the augmentation of some batches draws: on images of one pixel, which cost next to nothing."""
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


def random_crop(images: Tensor, padding: int, random: torch.Generator) -> Tensor:
    """Pad with zeros on all sides and cut out the old size at a place drawn for each image; [B, C, H, W]."""
    count, _, height, width = images.shape
    top, left = torch.randint(0, 2 * padding + 1, (2, count, 1), generator=random).to(images.device)
    rows = (top + torch.arange(height, device=images.device))[:, :, None]
    columns = (left + torch.arange(width, device=images.device))[:, None, :]
    padded = F.pad(images, [padding] * 4).permute(0, 2, 3, 1)
    picked = torch.arange(count, device=images.device)[:, None, None]
    return padded[picked, rows, columns].permute(0, 3, 1, 2)


def random_flip(images: Tensor, random: torch.Generator) -> Tensor:
    """Mirror each image left to right with probability one half; [B, C, H, W]."""
    flip = torch.rand(len(images), generator=random).to(images.device) < 0.5
    return torch.where(flip[:, None, None, None], images.flip(3), images)
