"""The user's own torch data sets: images to prepare, or tensors that are ready for the network."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, default_collate

from kdengine.config.settings import LOADERS
from kdengine.data.batches import generator_for
from kdengine.data.dataset import Data, Split
from kdengine.data.decoding import reason
from kdengine.data.items import data_of
from kdengine.data.load import ready
from kdengine.data.masked_items import largest_class, numbered
from kdengine.data.masks import index_image
from kdengine.errors import DataError
from kdengine.seeds import drawing_from

__all__ = ["KEYS", "DatasetLoader", "loader_of", "pictures_of"]

KEYS = ("image", "images", "img", "pixel_values", "x"), ("label", "labels", "y"), ("index", "idx")
"""What mappings may call the images, the labels and the positions."""


def pictures_of(train: Any, test: Any) -> Data | None:
    """The data of two torch data sets of (PIL image, label or PIL mask), ready to use; None if ``train`` is anything else.

    Images are read anew in every epoch, so that random transforms of the data set keep working. If it has an attribute
    ``transform``, kdengine adds no augmentation unless the settings ask for it.

    Args:
        train: to train on; class names are taken from its attribute ``classes``.
        test: to measure on.

    Raises:
        DataError: an item cannot be read, or is no (image, class index); or ``test`` has no such items.
    """
    if not _gives_pictures(train, "The training data set"):
        return None
    if not _gives_pictures(test, "The test data set"):
        raise DataError(
            "The training data set gives PIL images, so fit() needs a second data set of PIL images, to measure on. Or let the "
            "data set give normalised tensors [C, H, W]."
        )
    given = {"train": _Pictures(train, "The training data set"), "test": _Pictures(test, "The test data set")}
    splits = {part: _split(replace(pictures, seeded=True)) for part, pictures in given.items()}
    named = tuple(map(str, getattr(train, "classes", ())))
    masked = splits["train"].masked
    largest = 0 if masked and named else max(map(_largest, splits.values()))
    classes = named if len(named) > largest else numbered(largest)
    task = "segmentation" if masked else "classification"
    data = ready(data_of(LOADERS, classes, splits, size=None, split=None, skip_bad=False, task=task), hold=False)
    unseeded: dict[str, Any] = {part: replace(splits[part], items=pictures) for part, pictures in given.items()}
    return replace(data, augment="none" if getattr(train, "transform", None) else data.augment, **unseeded)


def loader_of(given: Any, name: str, seed: int | None, batch_size: int, workers: int) -> Any:
    """A loader of a torch data set; anything else is returned as it is.

    Args:
        given: a data set of (tensor [C, H, W], label), a loader, or None.
        name: what messages call it.
        seed: seed of the order; None for the data set's own.
        batch_size: images in a batch.
        workers: processes that read ahead.
    """
    return DatasetLoader(given, batch_size, seed, workers, name) if _is_dataset(given) else given


def _is_dataset(given: object) -> bool:
    """Whether it is a data set of torch or of Hugging Face whose items have positions."""
    known = isinstance(given, Dataset) or type(given).__module__.partition(".")[0] == "datasets"
    return known and not isinstance(given, IterableDataset) and hasattr(given, "__getitem__") and hasattr(given, "__len__")


def _gives_pictures(given: Any, name: str) -> bool:
    """Whether it is a torch data set of (PIL image, label)."""
    if not _is_dataset(given):
        return False
    if not len(given):
        raise DataError(f"{name} is empty.")
    with drawing_from(0):
        return isinstance(_read(given, 0, name)[0], Image.Image)


def _split(pictures: _Pictures) -> Split:
    """The items with their masks or labels.

    Labels come from ``targets`` of the data set if it has that, else from the items themselves.
    """
    if isinstance(pictures[0][1], Image.Image):
        return Split(torch.zeros(len(pictures), dtype=torch.int64), items=pictures, masked=True)
    targets = getattr(pictures.dataset, "targets", None)
    known = isinstance(targets, list | Tensor) and len(targets) == len(pictures)
    labels = torch.as_tensor(targets if known else [label for _, label in pictures])
    if labels.ndim != 1 or labels.is_floating_point():
        raise DataError(f"{pictures.name} must give a class index (int) with every image.")
    return Split(labels.long(), items=pictures)


def _largest(split: Split) -> int:
    """The largest class of any image or, in masks, of any pixel."""
    if not split.masked:
        return int(split.labels.max())

    def mask(index: int) -> Image.Image:
        image, found = split.items[index]
        return index_image(found, image, f"Image {index}")

    return largest_class(mask, len(split))


@dataclass(frozen=True)
class _Pictures(Sequence[Any]):
    """(PIL image, label or PIL mask) of a data set whose items are such pairs, or mappings with ``image`` and ``label``.

    With ``seeded``, random transforms give the same image each time, so that statistics and fingerprint are those of any run.
    """

    dataset: Any
    name: str
    seeded: bool = False

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: Any) -> Any:
        if index >= len(self):  # many data sets do not end an iteration by themselves
            raise IndexError(index)
        with drawing_from(index) if self.seeded else nullcontext():
            return _read(self.dataset, index, self.name)


@dataclass(frozen=True)
class DatasetLoader:
    """Batches (images [B, C, H, W], labels [B], index [B]) of a torch data set of (tensor [C, H, W], label).

    Order and random transforms depend on seed, epoch and position alone, however many workers there are.

    Attributes:
        dataset: the data set.
        batch_size: images in a batch; the last one may be smaller.
        seed: seed of the order; None for the data set's own.
        workers: processes that read ahead.
        name: what messages call it.
        drop_last: leave out a last batch that is smaller than the others.
    """

    dataset: Any
    batch_size: int
    seed: int | None
    workers: int
    name: str
    drop_last: bool = False

    def __len__(self) -> int:
        whole, rest = divmod(len(self.dataset), self.batch_size)
        return whole + bool(rest and not self.drop_last)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.of_epoch(0))

    def of_epoch(self, number: int) -> Iterable[Any]:
        """A loader of the batches of an epoch, counted from 0; instead of a batch, it may give a :class:`DataError`."""
        own = generator_for(self.seed or 0, number)
        order = torch.arange(len(self.dataset))
        if self.seed is not None:
            order = torch.randperm(len(self.dataset), generator=own)
        return DataLoader(
            _Indexed(self.dataset, int(torch.randint(2**62, (), generator=own)), self.name),
            batch_sampler=[places.tolist() for places in torch.split(order, self.batch_size)[: len(self)]],
            num_workers=0 if isinstance(self.dataset, TensorDataset) else self.workers,
            collate_fn=_collate,
            worker_init_fn=_leave_interrupts_to_the_main_process,
            generator=own,  # or torch would draw from the global state
        )


class _Indexed(Dataset[Any]):
    """Gives (image, label, position); a fault is returned, not raised, for torch would put a worker's traceback into it."""

    def __init__(self, dataset: Any, seed: int, name: str) -> None:
        self.dataset = dataset
        self.seed = seed
        self.name = name

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        try:
            with drawing_from((self.seed + index) % 2**63):
                return (*_read(self.dataset, index, self.name), index)
        except DataError as error:
            return error


def _read(dataset: Any, index: int, name: str) -> tuple[Any, Any]:
    """Image and label of an item."""
    try:
        item = dataset[index]
    except Exception as error:  # the user's code may raise anything
        raise DataError(f"{name}: item {index} cannot be read: {reason(error)}.") from error
    if isinstance(item, Mapping):
        image, label = (next((item[key] for key in keys if key in item), None) for keys in KEYS[:2])
    else:
        image, label = item[:2] if isinstance(item, Sequence) and len(item) >= 2 else (None, None)
    if image is None or label is None:
        raise DataError(
            f"{name} must give (image, label) or a mapping with 'image' and 'label'; item {index} is {type(item).__name__}."
        )
    return image, label


def _collate(samples: Sequence[Any]) -> Any:
    """Images [B, C, H, W], labels [B] and positions [B]; or the fault of the first item that has one."""
    fault = next((sample for sample in samples if isinstance(sample, DataError)), None)
    if fault is not None:
        return fault
    shapes = list(dict.fromkeys(tuple(getattr(image, "shape", ())) for image, *_ in samples))
    if len(shapes) > 1:
        return DataError(
            f"The data set gives images of different shapes, {list(shapes[0])} and {list(shapes[1])}, which do not fit into "
            "one batch. Let it resize them; or let it give PIL images, which kdengine brings to one size."
        )
    try:
        return default_collate(list(samples))
    except Exception as error:  # items of any type
        return DataError(f"A batch cannot be assembled: {reason(error)}. Items must be (tensor [C, H, W], class index).")


def _leave_interrupts_to_the_main_process(worker: int) -> None:
    """A keyboard interrupt reaches every process, but the main one decides when to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
