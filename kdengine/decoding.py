"""Decoding images into one tensor, for data that fits in memory."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from kdengine.errors import DataError

__all__ = ["MEMORY_LIMIT", "decode", "opened", "pixels"]

MEMORY_LIMIT = 2 * 2**30
"""Bytes of decoded images up to which a set is kept in memory."""


def decode(items: Sequence[Any], width: int, height: int) -> Tensor:
    """All images as one tensor, uint8 [N, 3, H, W].

    Args:
        items: (PIL image, label) each.
        width: W; images of another size are resized, whatever their shape.
        height: H.

    Raises:
        DataError: an image cannot be read.
    """
    out = torch.empty(len(items), 3, height, width, dtype=torch.uint8)

    def decode_one(index: int) -> None:
        out[index] = pixels(items, index, width, height)

    with ThreadPoolExecutor() as pool:
        for _ in pool.map(decode_one, range(len(items)), chunksize=256):
            pass
    return out


def opened(items: Sequence[Any], index: int) -> Image.Image:
    """One image, in red, green and blue.

    Raises:
        DataError: it cannot be read.
    """
    try:
        image: Image.Image = items[index][0].convert("RGB")
    except OSError as error:
        raise DataError(f"Image {index} cannot be read: {error}.") from error
    return image


def pixels(items: Sequence[Any], index: int, width: int, height: int) -> Tensor:
    """One image as uint8 [3, H, W].

    Raises:
        DataError: it cannot be read.
    """
    image = opened(items, index)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
