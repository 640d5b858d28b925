"""Batches of images: from one tensor in memory, from a dataset read by workers, or from a user's own loader."""

from __future__ import annotations

import random as python_random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kdengine.errors import DataError

__all__ = [
    "Batch",
    "Batches",
    "ForeignBatches",
    "MemoryBatches",
    "ShardedBatches",
    "StreamBatches",
    "random_crop",
    "random_flip",
]

PADDING = 4
FORM = (
    "A loader must give normalised images (float, [B, C, H, W]) and class indices (int, [B]), as a pair of tensors "
    "or a mapping with 'image' and 'label'"
)
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


@contextmanager
def _drawing_from(seed: int) -> Iterator[None]:
    """Seed the random states that image transforms draw from, and leave them as they were."""
    before = python_random.getstate(), np.random.get_state(), torch.get_rng_state()
    python_random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed accelerators too
    try:
        yield
    finally:
        python_random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


class _Indexed(Dataset[tuple[Tensor, int, int]]):
    """A dataset of (image, label) that gives (transformed image, label, index).

    What a transform draws depends on the seed and the index alone, however many workers there are.
    """

    def __init__(self, items: Sequence[Any], transform: Callable[[Any], Tensor], seed: int) -> None:
        self.items = items
        self.transform = transform
        self.seed = seed

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        try:
            image, label = self.items[index]
            with _drawing_from((self.seed + index) % 2**63):
                return self.transform(image), int(label), index
        except OSError as error:
            raise DataError(f"Image {index} cannot be read: {error}.") from error


@dataclass(frozen=True)
class StreamBatches:
    """Batches of images that worker processes read and transform.

    Attributes:
        items: sequence of (PIL image, label).
        transform: PIL image -> normalised tensor [C, H, W].
        batch_size: images in a batch; the last one may be smaller.
        seed: seed of order and augmentation; None keeps the order.
        workers: reading processes.
        device: where batches go.
    """

    items: Sequence[Any]
    transform: Callable[[Any], Tensor]
    batch_size: int
    seed: int | None = None
    workers: int = 0
    device: torch.device = CPU

    def __len__(self) -> int:
        return -(-len(self.items) // self.batch_size)

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, read ahead by the workers; those before ``start`` are not read."""
        generator = generator_for(self.seed or 0, number)
        seed = int(torch.randint(2**62, (), generator=generator))
        left = self._order(generator)[start:]
        if not left:
            return
        loader = DataLoader(
            _Indexed(self.items, self.transform, seed),
            batch_sampler=left,
            num_workers=self.workers,
            generator=generator,  # or torch would draw from the global state
            pin_memory=self.device.type == "cuda",
        )
        for x, y, index in loader:
            yield Batch(x.to(self.device, non_blocking=True), y.to(self.device), index.to(self.device))

    def _order(self, random: torch.Generator) -> list[list[int]]:
        """The places of the images of each batch, as a shuffling ``DataLoader`` with this generator orders them."""
        order = torch.arange(len(self.items))
        if self.seed is not None:
            torch.empty((), dtype=torch.int64).random_(generator=random)  # what a loader draws first, for its workers
            order = torch.randperm(len(self.items), generator=random)
        return [places.tolist() for places in torch.split(order, self.batch_size)]


@dataclass(frozen=True)
class ForeignBatches:
    """A user's own loader of (images, labels), or of mappings with ``image`` and ``label``.

    Its order is its own; ``index`` counts the images as they come.

    Raises:
        DataError: while iterating, when a batch has another form.
    """

    loader: Iterable[Any]
    device: torch.device = CPU

    def __len__(self) -> int:
        try:
            return len(self.loader)  # type: ignore[arg-type]
        except TypeError:
            raise DataError("The loader has no length: give one with __len__, such as a torch DataLoader.") from None

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """One pass over the loader; what comes before ``start`` is read and dropped, for the order is the loader's own."""
        seen = 0
        for place, item in enumerate(self.loader):
            x, y = _images_and_labels(item)
            index = torch.arange(seen, seen + len(x), device=self.device)
            seen += len(x)
            if place >= start:
                yield Batch(x.to(self.device), y.to(self.device), index)


def _images_and_labels(item: Any) -> tuple[Tensor, Tensor]:
    if isinstance(item, Mapping):
        images = next((item[key] for key in ("image", "images", "img", "pixel_values", "x") if key in item), None)
        labels = next((item[key] for key in ("label", "labels", "y") if key in item), None)
    else:
        images, labels = item[:2] if isinstance(item, Sequence) and len(item) >= 2 else (None, None)
    if not isinstance(images, Tensor) or not isinstance(labels, Tensor):
        raise DataError(f"{FORM}; got {_kind(item)}.")
    fit = images.is_floating_point() and labels.ndim == 1 and not labels.is_floating_point() and len(images) == len(labels)
    if not fit:
        raise DataError(f"{FORM}; got {_kind((images, labels))}.")
    return images, labels.long()


def _kind(item: Any) -> str:
    """What a loader gave, in a few words."""
    if isinstance(item, Tensor):
        return f"{str(item.dtype).removeprefix('torch.')} {list(item.shape)}"
    if isinstance(item, Mapping):
        return f"a mapping with {', '.join(map(repr, item)) or 'nothing in it'}"
    if isinstance(item, tuple | list) and len(item) < 5:
        return f"({', '.join(map(_kind, item))})"
    return type(item).__name__
