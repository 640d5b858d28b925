"""Batches from a loader of the user's own."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from kdengine.data.batches import CPU, Batch
from kdengine.data.worker_batches import begun
from kdengine.errors import DataError
from kdengine.seeds import undisturbed

__all__ = ["UserBatches", "check_finite"]

FORM = (
    "A loader must give normalised images (float, [B, C, H, W]) and class indices (int, [B]), as a pair of tensors "
    "or a mapping with 'image' and 'label'"
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class UserBatches:
    """A user's own loader of (images, labels), or of mappings with ``image`` and ``label``.

    Its order is its own; ``index`` counts the images as they come.

    Attributes:
        loader: the loader.
        device: where batches go.
        name: what messages call the loader.
        classes: number of classes K, from where it is known on.

    Raises:
        DataError: while iterating, when a batch has another form, or a label that is no class.
    """

    loader: Iterable[Any]
    device: torch.device = CPU
    name: str = "The loader"
    classes: int | None = None

    def __len__(self) -> int:
        try:
            return len(self.loader)  # type: ignore[arg-type]
        except TypeError:
            raise DataError(f"{self.name} has no length: give one with __len__, such as a torch DataLoader.") from None

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """One pass over the loader; what comes before ``start`` is read and dropped, for the order is the loader's own."""
        seen = given = 0
        for given, item in enumerate(_drawn(self.loader), 1):
            x, y = _images_and_labels(item)
            self._check_labels(y)
            if given == 1:  # a wrong normalisation shows here; to look at every image would cost something
                check_finite(x, self.name)
            index = torch.arange(seen, seen + len(x), device=self.device)
            seen += len(x)
            if given > start:
                yield Batch(x.to(self.device), y.to(self.device), index)
        if not given:
            raise DataError(f"{self.name} gave no batch. Is it used up after one pass? It is read anew in every epoch.")
        if isinstance(self.loader, Sized) and given != len(self.loader):
            told = "%s gave %d batches, but its length is %d: the learning rate falls by what it says"
            log.warning(told, self.name, given, len(self.loader))

    def _check_labels(self, labels: Tensor) -> None:
        """Refuse labels [B] that are no classes, before they end in an index out of range or in no loss at all."""
        low, high = (int(end) for end in labels.aminmax())
        if low < 0:
            raise DataError(f"{self.name} gives the label {low}: classes count from 0. Leave images without a label out of it.")
        if self.classes is not None and high >= self.classes:
            raise DataError(
                f"{self.name} gives the label {high}, outside the {self.classes} classes, which count from 0 to "
                f"{self.classes - 1}. They are as many as the labels of val_loader, 'train_loader.dataset.classes' and the "
                "networks that came as modules show: give a val_loader with all classes, or a data set with a list 'classes'."
            )


def check_finite(images: Tensor, name: str) -> None:
    """Refuse images [B, C, H, W] with values that are no numbers.

    Raises:
        DataError: with the name of the loader.
    """
    bad = ~images.isfinite().flatten(1).all(1)
    if bool(bad.any()):
        raise DataError(
            f"{name} gives images with values that are not finite (NaN or infinite): {int(bad.sum())} of {len(images)} in one "
            "batch. Does its normalisation divide by zero?"
        )


def _drawn(loader: Iterable[Any]) -> Iterator[Any]:
    """What a loader gives.

    What torch's loader draws in this process comes from the global random state, never from the one that an engine in
    another thread has put there for a while.
    """
    if not isinstance(loader, DataLoader):
        yield from loader
        return
    with undisturbed():
        items = begun(loader)
    while True:
        with undisturbed() if loader.num_workers == 0 else nullcontext():
            item = next(items, loader)
        if item is loader:
            return
        yield item


def _images_and_labels(item: Any) -> tuple[Tensor, Tensor]:
    if isinstance(item, Mapping):
        images = next((item[key] for key in ("image", "images", "img", "pixel_values", "x") if key in item), None)
        labels = next((item[key] for key in ("label", "labels", "y") if key in item), None)
    else:
        images, labels = item[:2] if isinstance(item, Sequence) and len(item) >= 2 else (None, None)
    if not isinstance(images, Tensor) or not isinstance(labels, Tensor):
        raise DataError(f"{FORM}; got {_kind(item)}.")
    fit = images.is_floating_point() and labels.ndim == 1 and not labels.is_floating_point() and len(images) == len(labels)
    if fit and not len(labels):
        raise DataError("A loader gave a batch without images: leave it out.")
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
