"""Masks: a class for each pixel of an image, cropped, mirrored and resized together with it."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from kdengine.errors import DataError
from kdengine.tasks.segmentation import IGNORED

__all__ = ["IGNORED", "apart", "check_values", "index_image", "joined"]


def joined(images: Tensor, masks: Tensor) -> Tensor:
    """Images with their masks as one more channel, which whatever moves pixels moves too: uint8 [B, C + 1, H, W].

    The mask is stored as 255 - class, so that the zeros that fill what is moved in mean "ignored".

    Args:
        images: uint8 [B, C, H, W].
        masks: class indices, 255 where ignored, uint8 [B, H, W].
    """
    return torch.cat([images, (IGNORED - masks)[:, None]], 1)


def apart(images: Tensor) -> tuple[Tensor, Tensor]:
    """The images uint8 [B, C, H, W] and the masks uint8 [B, H, W] of :func:`joined`."""
    return images[:, :-1], IGNORED - images[:, -1]


def index_image(mask: Image.Image, image: Image.Image, what: str) -> Image.Image:
    """A mask as an image of class indices, mode L.

    Args:
        mask: of one channel: palette indices, grey values or truth values.
        image: that it belongs to; the mask may be smaller or larger.
        what: what has the mask, for messages.

    Raises:
        DataError: the mask has several channels, values above 255, or other proportions than the image.
    """
    values = np.asarray(mask)
    if values.ndim != 2 or values.dtype.kind not in "biu":
        raise DataError(
            f"{what} has a mask of mode {mask.mode}, but a mask is an image of class indices, mode P or L. Save it as one."
        )
    if values.size and not 0 <= int(values.min()) <= int(values.max()) <= IGNORED:
        raise DataError(f"{what} has a mask with the value {values.max()}, but values go from 0 to {IGNORED}.")
    (columns, rows), (width, height) = mask.size, image.size
    if abs(columns * height - rows * width) > max(columns, rows, width, height):  # more than rounding explains
        raise DataError(
            f"{what} has {width} x {height} pixels, but its mask {columns} x {rows}. Give it a mask of the same proportions."
        )
    return Image.fromarray(values.astype(np.uint8))


def check_values(mask: Image.Image, classes: int, what: str) -> None:
    """Refuse a mask with values that are no classes.

    Args:
        mask: class indices, mode L.
        classes: number of classes K.
        what: what has the mask, for the message.

    Raises:
        DataError: a value is neither in 0 ... K - 1 nor 255.
    """
    wrong = [value for value, count in enumerate(mask.histogram()) if count and classes <= value < IGNORED]
    if wrong:
        raise DataError(
            f"{what} has a mask with the value {wrong[0]}, but its {classes} classes count from 0 to {classes - 1}. Give "
            f"{IGNORED} to pixels that belong to none."
        )
