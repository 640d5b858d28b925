"""From an image file to uint8 [3, H, W]: the same way for data held in memory and for data read as needed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from kdengine.data.masks import check_values, index_image
from kdengine.data.rgb import as_rgb
from kdengine.errors import DataError, counted

__all__ = [
    "MEMORY_LIMIT",
    "SKIP_BAD",
    "WHOLE",
    "Fitting",
    "decode",
    "decode_with_masks",
    "do_all",
    "failures",
    "faults_of",
    "in_words",
    "opened",
    "pixels",
    "pixels_and_mask",
    "reason",
]

MEMORY_LIMIT = 2 * 2**30
"""Bytes of decoded images up to which a data set is held in memory."""
SKIP_BAD = "To leave out images that cannot be read, add @skip_bad=true to the data."
"""The note on errors of images that the readers of files can leave out."""
NAMED = 5
"""Faulty images that a message names."""


@dataclass(frozen=True)
class Fitting:
    """How images of another size are brought to the size of the data.

    Attributes:
        crop: share of the sides of the largest centred part with the aspect ratio of the data that is kept: 1 keeps all of
            it, 0.875 cuts off a sixteenth at every side.
        interpolation: how pixels are resampled: ``"nearest"``, ``"bilinear"``, ``"bicubic"``, ``"box"``, ``"hamming"`` or
            ``"lanczos"``.
    """

    crop: float = 1.0
    interpolation: str = "bicubic"

    def __call__(self, image: Image.Image, width: int, height: int) -> Image.Image:
        """The image, W x H."""
        method = Image.Resampling[self.interpolation.upper()]
        if image.size == (width, height) and self.crop == 1:
            return image
        return image.resize((width, height), method, self._box(*image.size, width, height))

    def _box(self, columns: int, rows: int, width: int, height: int) -> tuple[float, float, float, float]:
        """The part of an image that is kept: left, upper, right, lower.

        Resampling the box alone gives the pixels that resizing the whole image and cropping the centre would, without rounding
        the size in between, and without making a huge image of a long, thin one.
        """
        inner = self.crop * min(columns, rows * width / height), self.crop * min(rows, columns * height / width)
        left, upper = max(0.0, (columns - inner[0]) / 2), max(0.0, (rows - inner[1]) / 2)
        return left, upper, columns - left, rows - upper


WHOLE = Fitting()


def decode(
    items: Sequence[Any],
    width: int,
    height: int,
    labels: Tensor | None = None,
    places: Sequence[int] | None = None,
    fitting: Fitting = WHOLE,
) -> Tensor:
    """Images as one tensor, uint8 [M, 3, H, W].

    Args:
        items: N items (PIL image, label).
        width: W.
        height: H.
        labels: int64 [N], the label that each item must have; None accepts any.
        places: positions of the M images to decode; None decodes all N.
        fitting: how images of another size are brought to this one.

    Raises:
        DataError: an image cannot be read, or has another label; the first few are named.
    """
    places = range(len(items)) if places is None else places
    out = torch.empty(len(places), 3, height, width, dtype=torch.uint8)

    def decode_one(row: int) -> None:
        out[row] = pixels(items, places[row], width, height, labels, fitting)

    do_all(decode_one, len(places))
    return out


def decode_with_masks(
    items: Sequence[Any],
    width: int,
    height: int,
    classes: int,
    places: Sequence[int] | None = None,
    fitting: Fitting = WHOLE,
) -> tuple[Tensor, Tensor]:
    """Images uint8 [M, 3, H, W] and their masks uint8 [M, H, W].

    Args:
        items: N items (PIL image, PIL mask).
        width: W.
        height: H.
        classes: number of classes K of the masks.
        places: positions of the M images to decode; None decodes all N.
        fitting: how images of another size are brought to this one; masks are resampled to the nearest pixel.

    Raises:
        DataError: an image or a mask cannot be used; the first few are named.
    """
    places = range(len(items)) if places is None else places
    images = torch.empty(len(places), 3, height, width, dtype=torch.uint8)
    masks = torch.empty(len(places), height, width, dtype=torch.uint8)

    def decode_one(row: int) -> None:
        images[row], masks[row] = pixels_and_mask(items, places[row], width, height, classes, fitting)

    do_all(decode_one, len(places))
    return images, masks


def faults_of(items: Sequence[Any], places: Iterable[int]) -> dict[int, DataError]:
    """The images that cannot be read: position -> why. Every image is decoded, in threads.

    Args:
        items: items (PIL image, label).
        places: positions of the images to look at.
    """

    def usable(place: int) -> None:
        _check_size(opened(items, place), place)

    return failures(usable, places)


def in_words(faults: Sequence[DataError]) -> str:
    """What the first faults say, and how many more there are."""
    more = f" And {len(faults) - NAMED} more." if len(faults) > NAMED else ""
    return " ".join(map(str, faults[:NAMED])) + more


def do_all(work: Callable[[int], None], count: int) -> None:
    """Do some work for each of so many numbers, in threads.

    Raises:
        DataError: what went wrong, of all numbers together.
    """
    faults = failures(work, range(count))
    if faults:
        first = next(iter(faults.values()))
        raise first if len(faults) == 1 else _together(list(faults.values()))


def failures(work: Callable[[int], None], numbers: Iterable[int]) -> dict[int, DataError]:
    """Do some work for each number, in threads, to the end: number -> what went wrong."""

    def fault(number: int) -> DataError | None:
        try:
            work(number)
        except DataError as error:
            return error.with_traceback(None)
        return None

    numbers = list(numbers)
    with ThreadPoolExecutor() as pool:
        found = zip(numbers, pool.map(fault, numbers), strict=True)
        return {number: error for number, error in found if error is not None}


def _together(faults: Sequence[DataError]) -> DataError:
    """One error of several, with each of their notes once."""
    error = DataError(f"{counted(len(faults), 'image')} cannot be used. {in_words(faults)}")
    for note in dict.fromkeys(note for fault in faults for note in getattr(fault, "__notes__", ())):
        error.add_note(note)
    return error


def opened(items: Sequence[Any], index: int, labels: Tensor | None = None) -> Image.Image:
    """One image, converted to RGB.

    Raises:
        DataError: it or its mask cannot be read, or its label is not the one in ``labels``, if those are class indices
            int64 [N].
    """
    return _item(items, index, labels)[0]


def _item(items: Sequence[Any], index: int, labels: Tensor | None = None) -> tuple[Image.Image, Image.Image | None]:
    """One image, converted to RGB, and its mask of class indices, if an image takes the place of its label."""
    known = None if labels is None or labels.ndim > 1 else int(labels[index])
    try:
        image, label = items[index]
        converted: Image.Image = as_rgb(image)
        mask = index_image(label, converted, f"Image {index}") if isinstance(label, Image.Image) else None
        label = known if known is None or mask is not None else int(label)
    except DataError:
        raise
    except Exception as error:  # files are damaged in many ways, and user code may raise anything
        unreadable = DataError(f"Image {index} cannot be read: {reason(error)}.")
        for note in getattr(error, "__notes__", ()):
            unreadable.add_note(note)
        raise unreadable from error
    if label != known:
        raise DataError(
            f"Image {index} comes with the label {label}, but its split says {known}. Split.labels must be "
            "the labels of its items, in the same order."
        )
    return converted, mask


def pixels(
    items: Sequence[Any], index: int, width: int, height: int, labels: Tensor | None = None, fitting: Fitting = WHOLE
) -> Tensor:
    """One image as uint8 [3, H, W], contiguous.

    An image of another size is resized, keeping its aspect ratio, until it covers H x W, and its centre cropped.

    Raises:
        DataError: it cannot be read, is empty, or its label is not the one in ``labels``, int64 [N].
    """
    image = opened(items, index, labels)
    _check_size(image, index)
    return _channels(fitting(image, width, height))


def pixels_and_mask(
    items: Sequence[Any], index: int, width: int, height: int, classes: int, fitting: Fitting = WHOLE
) -> tuple[Tensor, Tensor]:
    """One image as uint8 [3, H, W] and its mask as uint8 [H, W], brought to size alike.

    Raises:
        DataError: either cannot be read or is empty, or the mask has values that are none of so many classes.
    """
    image, mask = _item(items, index)
    _check_size(image, index)
    if mask is None:
        raise DataError(f"Image {index} comes without a mask. Items of data with masks must be (PIL image, PIL mask).")
    check_values(mask, classes, f"Image {index}")
    fitted = replace(fitting, interpolation="nearest")(mask, width, height)
    return _channels(fitting(image, width, height)), torch.from_numpy(np.array(fitted))


def _channels(image: Image.Image) -> Tensor:
    """An RGB image as uint8 [3, H, W], contiguous."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def _check_size(image: Image.Image, index: int) -> None:
    if not all(image.size):
        raise DataError(f"Image {index} cannot be used: it has {image.width} x {image.height} pixels. Leave it out.")


def reason(error: BaseException) -> str:
    """What an error says, in one line. Errors of the operating system say it in words; others need their type too."""
    said = re.sub(r" <_io\.[^>]*>", "", " ".join(str(error).split())).rstrip(".")  # Pillow names a file by its object
    if isinstance(error, OSError) and said:
        return error.strerror or said
    return f"{type(error).__name__}: {said}".rstrip(": ")
