"""From an image file to uint8 [3, H, W]: the same way for data held in memory and for data read as needed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from kdengine.errors import DataError

__all__ = ["MEMORY_LIMIT", "decode", "opened", "pixels", "reason"]

MEMORY_LIMIT = 2 * 2**30
"""Bytes of decoded images up to which a data set is held in memory."""


def decode(
    items: Sequence[Any], width: int, height: int, labels: Tensor | None = None, places: Sequence[int] | None = None
) -> Tensor:
    """Images as one tensor, uint8 [M, 3, H, W].

    Args:
        items: N items (PIL image, label).
        width: W.
        height: H.
        labels: int64 [N], the label that each item must have; None accepts any.
        places: positions of the M images to decode; None decodes all N.

    Raises:
        DataError: an image cannot be read, or has another label.
    """
    places = range(len(items)) if places is None else places
    out = torch.empty(len(places), 3, height, width, dtype=torch.uint8)

    def decode_one(row: int) -> None:
        out[row] = pixels(items, places[row], width, height, labels)

    with ThreadPoolExecutor() as pool:
        for _ in pool.map(decode_one, range(len(places))):
            pass
    return out


def opened(items: Sequence[Any], index: int, labels: Tensor | None = None) -> tuple[Image.Image, int]:
    """One image, converted to RGB, and its label.

    Raises:
        DataError: it cannot be read, or its label is not the one in ``labels``, int64 [N].
    """
    try:
        image, label = items[index]
        image, label = image.convert("RGB"), int(label)
    except DataError:
        raise
    except Exception as error:  # files are damaged in many ways, and user code may raise anything
        raise DataError(f"Image {index} cannot be read: {reason(error)}.") from error
    if labels is not None and label != int(labels[index]):
        raise DataError(
            f"Image {index} comes with the label {label}, but its split says {int(labels[index])}. Split.labels must be "
            "the labels of its items, in the same order."
        )
    return image, label


def pixels(items: Sequence[Any], index: int, width: int, height: int, labels: Tensor | None = None) -> Tensor:
    """One image as uint8 [3, H, W], contiguous.

    An image of another size is resized (bicubic, keeping its aspect ratio) until it covers H x W, and its centre cropped.

    Raises:
        DataError: it cannot be read, is empty, or its label is not the one in ``labels``, int64 [N].
    """
    image, _ = opened(items, index, labels)
    if image.size != (width, height):
        if not all(image.size):
            raise DataError(f"Image {index} cannot be used: it has {image.width} x {image.height} pixels. Leave it out.")
        image = image.resize((width, height), Image.Resampling.BICUBIC, _centre(*image.size, width, height))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def _centre(columns: int, rows: int, width: int, height: int) -> tuple[float, float, float, float]:
    """The largest box in the middle of an image with the aspect ratio of width x height: left, upper, right, lower.

    Resampling the box alone gives the pixels that resizing the whole image and cropping the centre would, without rounding
    the size in between, and without making a huge image of a long, thin one.
    """
    left = max(0.0, (columns - rows * width / height) / 2)
    upper = max(0.0, (rows - columns * height / width) / 2)
    return left, upper, columns - left, rows - upper


def reason(error: BaseException) -> str:
    """What an error says, in one line. Errors of the operating system say it in words; others need their type too."""
    said = re.sub(r" <_io\.[^>]*>", "", " ".join(str(error).split())).rstrip(".")  # Pillow names a file by its object
    if isinstance(error, OSError) and said:
        return said
    return f"{type(error).__name__}: {said}".rstrip(": ")
