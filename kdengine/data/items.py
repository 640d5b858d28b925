"""From images that are read as needed to a data set: splits, sizes, and files that cannot be read."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor

from kdengine.data.dataset import SPLIT_SEED, Data, Split
from kdengine.data.decoding import Fitting, faults_of, in_words, opened
from kdengine.errors import DataError, did_you_mean

__all__ = ["HELD_OUT", "SPLIT_OPTION", "data_of", "listed", "parts_of", "stratified", "without_bad"]

log = logging.getLogger(__name__)

SPLIT_OPTION = "@split=0.2"
"""How messages write the option that holds out test images."""
HELD_OUT = ("test", "val", "validation", "valid")
"""Names of parts beside ``train``; the first one there is has the test images."""
LISTED = 5
"""Names that a message lists."""
UNKNOWN_SIZE = (224, 224)
"""Rows and columns of images that have no size in common."""


def data_of(
    name: str,
    classes: tuple[str, ...],
    splits: Mapping[str, Split],
    size: Any,
    split: Any,
    skip_bad: Any,
    crop: Any = 1.0,
    interpolation: Any = "bicubic",
    task: str = "classification",
) -> Data:
    """A data set of images that are decoded later: at once if they fit in memory, otherwise by workers.

    Args:
        name: what messages call the data.
        classes: the class names.
        splits: ``train``, ``test`` and perhaps ``validation``; only ``train`` if test images are held out here.
        size: rows and columns as the user wrote them: ``224``, ``"160x224"`` or ``[160, 224]``; None for the size that the
            images have in common, else 224 x 224.
        split: share of the training images to hold out as test images, if there is no split ``test``.
        skip_bad: whether images that cannot be read are left out.
        crop: share of the sides of test images that is kept.
        interpolation: how images are resampled.
        task: what the data is for.

    Raises:
        DataError: an option has no valid value.
    """
    fitting = _fitting(name, crop, interpolation)
    rows_columns = None if size is None else _size(name, size)
    splits = _usable(name, splits, skip_bad)
    if split is not None:
        train, test = stratified(name, splits["train"], split)
        splits = {"train": train, "test": test}
    height, width = rows_columns or _common_size(splits["train"]) or UNKNOWN_SIZE
    whole = replace(fitting, crop=1.0)  # augmentation crops training images
    splits = {part: replace(images, fitting=whole if part == "train" else fitting) for part, images in splits.items()}
    validation = splits.get("validation")
    shape = (3, height, width)
    train, test = splits["train"], splits["test"]
    return Data(name, classes, shape, (), (), "crop-flip", train, test, validation=validation, task=task)


def _usable(name: str, splits: Mapping[str, Split], skip_bad: Any) -> Mapping[str, Split]:
    """The splits, without images that cannot be read if that is asked for."""
    if not isinstance(skip_bad, bool):
        raise DataError(f"'{name}': @skip_bad takes true or false, got {skip_bad!r}.")
    if not skip_bad:
        return splits
    of = {part: f"{part} images" if len(splits) > 1 else "images" for part in splits}
    return {part: without_bad(images, f"{of[part]} of '{name}'") for part, images in splits.items()}


Part = TypeVar("Part")


def parts_of(spec: str, found: Mapping[str, Part], split: bool) -> dict[str, Part]:
    """The parts of data by what they are for, ``train``, ``test`` and ``validation``; only the first if images are held out.

    Args:
        spec: of the data, without options, for messages.
        found: the parts by their names, ``train`` among them.
        split: whether test images are to be held out of ``train``.

    Raises:
        DataError: there are test images, though some are to be held out; or none, and none are.
    """
    there = [part for part in HELD_OUT if part in found]
    if split and there:
        raise DataError(
            f"'{spec}' has test images already, in '{there[0]}'. Leave @split out; train.validation holds out training images "
            "to choose the best epoch."
        )
    if not split and not there:
        raise DataError(
            f"'{spec}' has training images, but no test or val. To hold out a fifth of them for testing, write "
            f"{spec}{SPLIT_OPTION}"
        )
    test, validation, *_ = [*there, None, None]
    names = {"train": "train", "test": test, "validation": validation if test == "test" else None}
    return {part: found[name] for part, name in names.items() if name is not None}


def listed(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def stratified(name: str, split: Split, share: Any) -> tuple[Split, Split]:
    """Divide a split class by class: the images to keep, and the share that is held out.

    Which images of a class are held out depends only on how many it has, so it is the same in every run. Each class with two
    images or more has at least one on either side.

    Raises:
        DataError: the share is not between 0 and 1, or no class has two images.
    """
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
        raise DataError(f"'{name}': @split takes the share of images to hold out for testing, such as 0.2, got {share!r}.")
    held = torch.zeros(len(split), dtype=torch.bool)
    kinds = split.labels if split.labels.ndim == 1 else torch.zeros(len(split), dtype=torch.int64)  # else not by class
    for label in kinds.unique().tolist():
        places = (kinds == label).nonzero().flatten()
        count = min(max(1, round(share * len(places))), len(places) - 1)
        order = torch.randperm(len(places), generator=torch.Generator().manual_seed(SPLIT_SEED))
        held[places[order[:count]]] = True
    if not held.any():
        raise DataError(f"'{name}': @split={share} holds out nothing, for no class has two images. Add images.")
    return split.at(_places(~held)), split.at(_places(held))


def without_bad(split: Split, what: str) -> Split:
    """A split without the images that cannot be read; a warning says which. Every image is decoded once for this.

    Args:
        split: the images.
        what: what messages call them.
    """
    faults = faults_of(split.items, range(len(split)))
    if not faults:
        return split
    log.warning("Left out %d of %d %s: %s", len(faults), len(split), what, in_words(list(faults.values())))
    good = torch.ones(len(split), dtype=torch.bool)
    good[list(faults)] = False
    return split.at(_places(good))


def _places(chosen: Tensor) -> Tensor:
    """The positions that bool [N] chooses, int64 [M]."""
    return chosen.nonzero().flatten()


def _fitting(name: str, crop: Any, interpolation: Any) -> Fitting:
    """How images are brought to size, as the user wrote it."""
    if isinstance(crop, bool) or not isinstance(crop, int | float) or not 0 < crop <= 1:
        raise DataError(f"'{name}': @crop takes the share of the sides of test images to keep, such as 0.875, got {crop!r}.")
    known = [method.name.lower() for method in Image.Resampling]
    if interpolation not in known:
        near = did_you_mean(str(interpolation), known) or f"It is one of {', '.join(known)}."
        raise DataError(f"'{name}': @interpolation = {interpolation!r} is unknown. {near}")
    return Fitting(float(crop), interpolation)


def _size(name: str, size: Any) -> tuple[int, int]:
    """Rows and columns, however they were written."""
    sides = size.lower().split("x") if isinstance(size, str) else size if isinstance(size, list) else [size, size]
    pixels: list[Any] = [int(side) if isinstance(side, str) and side.isdecimal() else side for side in sides]
    if len(pixels) != 2 or not all(type(side) is int and 0 < side < 2**16 for side in pixels):
        raise DataError(
            f"'{name}': @size takes a number of pixels below 65536, such as 224, or ROWSxCOLUMNS, such as 160x224; got "
            f"{size!r}."
        )
    return pixels[0], pixels[1]


def _common_size(split: Split, looked_at: int = 32) -> tuple[int, int] | None:
    """Rows and columns of the images, if the first ones that can be read agree."""
    images = (_readable(split, place) for place in range(min(looked_at, len(split))))
    sizes = {image.size for image in images if image is not None}
    width, height = sizes.pop() if len(sizes) == 1 else (0, 0)
    return (height, width) if math.prod((height, width)) else None


def _readable(split: Split, place: int) -> Any:
    """One image; None if it cannot be read, which is reported where it is needed."""
    try:
        return opened(split.items, place)
    except DataError:
        return None
