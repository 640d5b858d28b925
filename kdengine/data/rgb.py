"""Images of any mode as RGB with 8 bits for each channel."""

from __future__ import annotations

import numpy as np
from PIL import Image

__all__ = ["as_rgb"]

LARGEST = 255
STEP = 257
"""What one of 256 steps is of 65536: 65535 is 255."""


def as_rgb(image: Image.Image) -> Image.Image:
    """The image in the mode RGB.

    Grey images of 16 bits are scaled to 8, where Pillow cuts off all that is brighter than 255 of 65535. Alpha channels and
    transparent colours are dropped.

    Raises:
        OSError: its pixels are integers of 32 bits or floating-point numbers outside of 0 to 255.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):  # as older versions of Pillow read it
        values = np.asarray(image).astype(np.int64).clip(0, LARGEST * STEP)
        return Image.fromarray(((values + STEP // 2) // STEP).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        _check_range(image)
    if isinstance(image.info.get("transparency"), bytes):  # Pillow warns of losing what is not kept anyway
        image = image.copy()
        del image.info["transparency"]
    return image.convert("RGB")


def _check_range(image: Image.Image) -> None:
    low, high = (float(np.asarray(image).min()), float(np.asarray(image).max())) if all(image.size) else (0.0, 0.0)
    if not 0 <= low <= high <= LARGEST or (image.mode == "F" and 0 < high <= 1):
        raise OSError(
            f"its pixels are numbers from {low:.6g} to {high:.6g}, where 0 to {LARGEST} are needed: save it with 8 or 16 bits"
        )
