"""Decoding images into one tensor, for data that fits in memory."""

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
"""Bytes of decoded images up to which a set is kept in memory."""


def decode(items: Sequence[Any], width: int, height: int, labels: Tensor | None = None) -> Tensor:
    """All images as one tensor, uint8 [N, 3, H, W].

    Args:
        items: (PIL image, label) each.
        width: W; images of another size are resized, whatever their shape.
        height: H.
        labels: int64 [N], what the labels of the items have to be.

    Raises:
        DataError: an image cannot be read, or has another label.
    """
    out = torch.empty(len(items), 3, height, width, dtype=torch.uint8)

    def decode_one(index: int) -> None:
        out[index] = pixels(items, index, width, height, labels)

    with ThreadPoolExecutor() as pool:
        for _ in pool.map(decode_one, range(len(items)), chunksize=256):
            pass
    return out


def opened(items: Sequence[Any], index: int, labels: Tensor | None = None) -> tuple[Image.Image, int]:
    """One image, in red, green and blue, and its label.

    Raises:
        DataError: it cannot be read, or has another label than the one in ``labels``, int64 [N].
    """
    try:
        image, label = items[index]
        image, label = image.convert("RGB"), int(label)
    except DataError:
        raise
    except Exception as error:  # files are damaged in many ways, and a user's own items may fail in any
        raise DataError(f"Image {index} cannot be read: {reason(error)}.") from error
    if labels is not None and label != int(labels[index]):
        raise DataError(
            f"Image {index} comes with the label {label}, but the labels of its split say {int(labels[index])}. "
            "The labels of a Split must be those that its items give, in the same order."
        )
    return image, label


def pixels(items: Sequence[Any], index: int, width: int, height: int, labels: Tensor | None = None) -> Tensor:
    """One image as uint8 [3, H, W].

    Raises:
        DataError: it cannot be read, or has another label than the one in ``labels``, int64 [N].
    """
    image, _ = opened(items, index, labels)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def reason(error: BaseException) -> str:
    """What an error says, in one line; an error of reading says it in words, others need their kind too."""
    said = re.sub(r" <_io\.[^>]*>", "", " ".join(str(error).split())).rstrip(".")  # Pillow names a file by its object
    if isinstance(error, OSError) and said:
        return said
    return f"{type(error).__name__}: {said}".rstrip(": ")
