"""Batches from the user's own loader."""

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
from kdengine.data.user_datasets import KEYS, DatasetLoader
from kdengine.data.worker_batches import begun
from kdengine.errors import DataError
from kdengine.seeds import undisturbed
from kdengine.transfer import moved

__all__ = ["UserBatches", "check_finite"]

FORM = (
    "A loader must give normalised images (float, [B, C, H, W]) and class indices (int, [B]), as a pair of tensors "
    "or a mapping with 'image' and 'label'"
)
INDEX_FORM = (
    "The third element of a batch, or 'index' in a mapping, is the position of each image in the data set: a tensor int [B]"
)

INTEGERS = torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class UserBatches:
    """A user's own loader of (images, labels), (images, labels, index), or mappings with ``image`` and ``label``.

    The order is the loader's own, unless kdengine made it of a data set. Batches have an index only if the loader gives one:
    as a third element, or as ``index`` or ``idx`` of a mapping. To count images as they arrive would give the same number to
    another image in every epoch.

    Attributes:
        loader: the loader.
        device: where batches go.
        name: what messages call the loader.
        classes: number of classes K, once it is known.
        samples: images in the data set, once it is known.

    Raises:
        DataError: while iterating, if a batch has another form, a label that is not a class, or an index that is not a
            position in the data set.
    """

    loader: Iterable[Any]
    device: torch.device = CPU
    name: str = "The loader"
    classes: int | None = None
    samples: int | None = None

    def __len__(self) -> int:
        try:
            return len(self.loader)  # type: ignore[arg-type]
        except TypeError:
            raise DataError(
                f"{self.name} has no length, so no learning-rate schedule can be laid out: give a loader with __len__, such as "
                "a torch DataLoader."
            ) from None

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """One pass over the loader; batches before ``start`` are read and dropped, because the order is the loader's own."""
        given = 0
        loader = self.loader.of_epoch(number) if isinstance(self.loader, DatasetLoader) else self.loader
        for given, item in enumerate(_drawn(loader), 1):
            x, y, index = _parts(item)
            self._check_labels(y)
            self._check_index(index)
            if given == 1:  # a wrong normalisation shows here; looking at every image would cost time
                check_finite(x, self.name)
            if given > start:
                x, y = (moved(tensor, self.device, loader) for tensor in (x, y))
                yield Batch(x, y, None if index is None else moved(index, self.device, loader))
        if not given:
            raise DataError(
                f"{self.name} gave no batch. Is it used up after one pass? It is iterated once an epoch: give a loader that "
                "can be iterated again, not an iterator."
            )
        if isinstance(self.loader, Sized) and given != len(self.loader):
            mismatch = "%s gave %d batches, but its length is %d, which the learning-rate schedule goes by"
            log.warning(mismatch, self.name, given, len(self.loader))

    def _check_labels(self, labels: Tensor) -> None:
        """Refuse labels [B] that are not classes, before they end in an index out of range or in no loss at all."""
        low, high = (int(end) for end in labels.aminmax())
        if low < 0:
            raise DataError(f"{self.name} gives the label {low}, but classes count from 0. Leave out images without a label.")
        if self.classes is not None and high >= self.classes:
            raise DataError(
                f"{self.name} gives the label {high}, but there are {self.classes} classes, which count from 0 to "
                f"{self.classes - 1}. Their number is taken from the labels of val_loader, 'train_loader.dataset.classes' and "
                "the networks given as modules: give a val_loader with all classes, or a data set with a list 'classes'."
            )

    def _check_index(self, index: Tensor | None) -> None:
        """Refuse positions [B] outside the data set, for methods keep one place for each image."""
        if index is None:
            return
        low, high = (int(end) for end in index.aminmax())
        if low < 0 or (self.samples is not None and high >= self.samples):
            allowed = "" if self.samples is None else f" to {self.samples - 1}, for its {self.samples} images"
            raise DataError(
                f"{self.name} gives the index {low if low < 0 else high}, but positions count from 0{allowed}. Give each "
                "image's position in the very data set that the loader reads; in a subset, that is the position in the subset."
            )


def check_finite(images: Tensor, name: str) -> None:
    """Refuse images [B, C, H, W] with values that are NaN or infinite.

    Raises:
        DataError: there are some; the message names the loader.
    """
    bad = ~images.isfinite().flatten(1).all(1)
    if bool(bad.any()):
        raise DataError(
            f"{name} gives images with values that are not finite (NaN or infinite): {int(bad.sum())} of {len(images)} in one "
            "batch. Does its normalisation divide by zero?"
        )


def _drawn(loader: Iterable[Any]) -> Iterator[Any]:
    """The items of a loader.

    A torch loader draws from the global random state in this process, and must never draw from the state that an engine in
    another thread has swapped in for a while.
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


def _parts(item: Any) -> tuple[Tensor, Tensor, Tensor | None]:
    """Images [B, C, H, W], labels int64 [B], and positions int64 [B] where the item has them."""
    if isinstance(item, DataError):
        raise item
    if isinstance(item, Mapping):
        images, labels, index = (next((item[key] for key in keys if key in item), None) for keys in KEYS)
    else:
        images, labels, index = (*item[:3], None)[:3] if isinstance(item, Sequence) and len(item) >= 2 else (None,) * 3
    if not isinstance(images, Tensor) or not isinstance(labels, Tensor):
        raise DataError(f"{FORM}; got {_kind(item)}.")
    fit = images.is_floating_point() and labels.ndim == 1 and not labels.is_floating_point() and len(images) == len(labels)
    if fit and not len(labels):
        raise DataError("A loader gave an empty batch, of 0 images. Leave out empty batches.")
    if not fit:
        raise DataError(f"{FORM}; got {_kind((images, labels))}.")
    images = images.float()  # float64 of NumPy, or half precision; networks take float32
    if index is None:
        return images, labels.long(), None
    if not isinstance(index, Tensor) or index.shape != labels.shape or index.dtype not in INTEGERS:
        raise DataError(
            f"{INDEX_FORM}, here int [{len(labels)}]; got {_kind(index)}. Leave anything else out of the batch, or put it in a "
            "mapping under another name."
        )
    return images, labels.long(), index.long()


def _kind(item: Any) -> str:
    """What a loader gave, in a few words."""
    if isinstance(item, Tensor):
        return f"{str(item.dtype).removeprefix('torch.')} {list(item.shape)}"
    if isinstance(item, Mapping):
        return f"a mapping with {', '.join(map(repr, item)) or 'nothing in it'}"
    if isinstance(item, tuple | list) and len(item) < 5:
        return f"({', '.join(map(_kind, item))})"
    return type(item).__name__
