"""Data sets of Hugging Face ``datasets``: a name on the hub, or a folder of parquet files."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from kdengine.data.dataset import Data, Split
from kdengine.data.decoding import SKIP_BAD, reason
from kdengine.data.items import SPLIT_OPTION, data_of
from kdengine.data.label_columns import Columns
from kdengine.data.masked_items import masked_splits
from kdengine.data.masks import IGNORED
from kdengine.data.rgb import as_rgb
from kdengine.errors import DataError, missing
from kdengine.seeds import undisturbed

__all__ = ["hugging_face"]

log = logging.getLogger(__name__)

HELD_OUT = ("test", "validation", "val")
"""Splits beside ``train``; the first one there is has the test images."""


def hugging_face(
    name: str,
    label: str = "",
    image: str = "",
    mask: str = "",
    size: Any = None,
    split: Any = None,
    ignore: Any = IGNORED,
    skip_bad: Any = False,
    crop: Any = 1.0,
    interpolation: Any = "bicubic",
) -> Data:
    """Images and labels of two columns; lists of labels make multi-label data, and masks data for segmentation.

    Args:
        name: name on the hub, or path of a folder.
        label: column of the labels; by default ``label``, else the first with named classes, else the only one that can be.
        image: column of the images; by default the first one of images.
        mask: column of the masks; by default one of images that is called so, if there is another one of images.
        size: rows and columns that images are brought to.
        split: share of the images to hold out for testing, if there is no split with test images.
        ignore: value of the pixels of masks that belong to no class, besides 255.
        skip_bad: whether images that cannot be read are left out.
        crop: share of the sides of test images that is kept.
        interpolation: how images are resampled.

    Raises:
        DataError: the data cannot be loaded, have no such columns or no test images, or an option has no valid value.
    """
    datasets = _library()
    loaded = _loaded(name, datasets)
    columns = Columns.of(f"hf:{name}", loaded["train"].features, str(image), str(label), datasets, str(mask))
    chosen = _chosen(name, loaded, columns, split is not None)
    images = {part: _Images(rows, columns.image, datasets) for part, rows in chosen.items()}
    if columns.task == "segmentation":
        pairs = {part: _MaskedRows(images[part], _Images(rows, columns.target, datasets)) for part, rows in chosen.items()}
        classes, splits = masked_splits(columns.data, pairs, ignore, None, skip_bad is True)
    else:
        classes, labels = columns.classes_of(chosen)
        splits = {part: Split(labels[part], items=_Rows(images[part], labels[part].tolist())) for part in chosen}
    return data_of(columns.data, classes, splits, size, split, skip_bad, crop, interpolation, columns.task)


def _library() -> Any:
    """The library, which is optional."""
    try:
        import datasets
    except ImportError as error:
        raise DataError("'hf:' data needs the package 'datasets': pip install 'kdengine[hf]'.") from error
    return datasets


def _loaded(name: str, datasets: Any) -> Mapping[str, Any]:
    folder = Path(os.path.expanduser(name))
    found = os.path.isdir(folder)
    if name.startswith((".", "/", "~")) and not found:
        raise DataError(missing("folder", name))
    try:
        with _without_bars(datasets.utils.logging):
            splits: Mapping[str, Any] = datasets.load_dataset(str(folder) if found else name)
    except Exception as error:  # the hub and the readers fail in many ways
        raise DataError(f"'hf:{name}' could not be loaded: {error}") from error
    if "train" not in splits:
        raise DataError(f"'hf:{name}' has the splits {', '.join(splits)}, but needs 'train'.")
    return splits


_bars_before: list[bool] = []
"""Whether each thread that is loading now found progress bars shown; only the first can have."""


@contextmanager
def _without_bars(logging: Any) -> Iterator[None]:
    """Hide the progress bars of ``datasets``; the last thread to finish loading restores them."""
    with undisturbed():
        _bars_before.append(logging.is_progress_bar_enabled())
        logging.disable_progress_bar()
    try:
        yield
    finally:
        with undisturbed():
            if _bars_before.pop() and not _bars_before:
                logging.enable_progress_bar()


def _chosen(name: str, loaded: Mapping[str, Any], columns: Columns, split: bool) -> dict[str, Any]:
    """The splits ``train``, ``test`` and ``validation``; only the first if test images are held out."""
    there = [part for part in HELD_OUT if part in loaded]
    held_out = [part for part in there if columns.labelled(loaded[part])]
    for part in set(there) - set(held_out):
        log.warning("'hf:%s': the split '%s' has no labels and is not used", name, part)
    if split and held_out:
        raise DataError(
            f"'hf:{name}' has test images already, in the split '{held_out[0]}'. Leave @split out; train.validation holds out "
            "training images to choose the best epoch."
        )
    if not split and not held_out:
        raise DataError(
            f"'hf:{name}' has the splits {', '.join(loaded)}, but needs 'train', and 'test' or 'validation' with labels. To "
            f"hold out a fifth of the training images for testing, write hf:{name}{SPLIT_OPTION}"
        )
    parts = {"train": "train", **dict(zip(("test", "validation"), held_out, strict=False))}
    if parts.get("test") != "test":
        parts.pop("validation", None)  # 'validation' and 'val' are two names for one thing
    return {part: loaded[stored] for part, stored in parts.items()}


class _Images:
    """The images of a column of a split of Hugging Face ``datasets``; one is decoded when it is asked for."""

    def __init__(self, rows: Any, column: str, datasets: Any) -> None:
        self.rows = rows.select_columns([column]).cast_column(column, datasets.Image(decode=False))
        self.column = column

    def __len__(self) -> int:
        return len(self.rows)

    def opened(self, index: int, decode: Callable[[Image.Image], Image.Image]) -> Image.Image:
        """One image; errors name its row."""
        try:
            raw = self.rows[index][self.column]
            if raw is None:
                raise OSError(f"there is no '{self.column}'")
            source = io.BytesIO(raw["bytes"]) if raw["bytes"] is not None else raw["path"]
            return decode(Image.open(source))
        except Exception as error:  # damaged files fail in many ways
            unreadable = OSError(f"{reason(error)} (row {index} of '{self.rows.split}')")
            unreadable.add_note(SKIP_BAD)
            raise unreadable from error


class _Rows(Sequence[Any]):
    """(PIL image, label) of a split."""

    def __init__(self, images: _Images, labels: Sequence[Any]) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Any) -> Any:
        return self.images.opened(index, as_rgb), self.labels[index]


class _MaskedRows:
    """Images and masks of two columns of a split."""

    def __init__(self, images: _Images, masks: _Images) -> None:
        self.images, self.masks = images, masks

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        """The row of an image."""
        return f"Row {index} of '{self.images.rows.split}'"

    def image(self, index: int) -> Image.Image:
        """An image, decoded."""
        return self.images.opened(index, as_rgb)

    def mask(self, index: int) -> Image.Image:
        """A mask as it is, decoded."""
        return self.masks.opened(index, Image.Image.copy)
