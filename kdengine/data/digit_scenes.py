"""Scenes of several real handwritten digits on one canvas, made in code: data with several labels, or with masks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from kdengine.data.dataset import Data, Split
from kdengine.errors import DataError

__all__ = ["digit_scenes"]

SCENES: Mapping[str, int] = {"train": 2000, "test": 500}
"""Scenes of each split."""
MOST = 4
"""Digits on a scene: one to this many, each at a corner of its own, moved a little."""
NOISE = 24
"""Largest value of the noise that lies under the digits, of 255."""
SIDES = range(16, 1025)
"""Sides that a canvas may have, in pixels."""
INK = 64
"""Value above which a pixel of a digit belongs to it, of 255."""
TARGETS = ("labels", "masks")


def digit_scenes(name: str, digits: Data, size: int = 64, target: str = "labels") -> Data:
    """Canvases with one to four digits; the targets of a canvas are the digits on it, as labels or as a mask.

    Every digit of a training scene is a training image of the digits, and so for test scenes. The scenes are the same in every
    run and on every machine, whatever the targets. In a mask, digit d has the index d + 1, and 0 is the background.

    Args:
        name: the spec.
        digits: the handwritten digits, images uint8 [N, 3, 32, 32].
        size: side of the canvas in pixels.
        target: ``"labels"`` for multi-label data, ``"masks"`` for segmentation.

    Raises:
        DataError: the size is not a number of pixels in ``SIDES``, or the target is unknown.
    """
    if target not in TARGETS:
        raise DataError(f"'{name}': @target takes {' or '.join(TARGETS)}, got {target!r}.")
    if type(size) is not int or size not in SIDES:
        raise DataError(f"'{name}': @size takes a number of pixels from {SIDES[0]} to {SIDES[-1]}, got {size!r}.")
    splits: dict[str, Split] = {}
    for seed, (part, count) in enumerate(SCENES.items()):
        source: Split = getattr(digits, part)
        images, labels, masks = _scenes(source, count, size, torch.Generator().manual_seed(seed))
        splits[part] = Split(labels if target == "labels" else masks, images)
    classes, task = (digits.classes, "multilabel") if target == "labels" else (("background", *digits.classes), "segmentation")
    return Data(name, classes, (3, size, size), (), (), "crop", splits["train"], splits["test"], task=task)


def _scenes(source: Split, count: int, size: int, random: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """So many scenes made of the images of a split: uint8 [N, 3, S, S], labels [N, K] and masks uint8 [N, S, S]."""
    assert source.images is not None
    images = torch.randint(NOISE, (count, 3, size, size), generator=random, dtype=torch.uint8)
    masks = torch.zeros(count, size, size, dtype=torch.uint8)
    labels = torch.zeros(count, int(source.labels.max()) + 1)
    for scene in range(count):
        digits = torch.randint(1, MOST + 1, (), generator=random)
        corners = torch.randperm(MOST, generator=random)[:digits]
        picked = torch.randint(len(source), (int(digits),), generator=random)
        for corner, at in zip(corners.tolist(), picked.tolist(), strict=True):
            inked = _place(images[scene], source.images[at], corner, random)
            masks[scene][inked] = 1 + source.labels[at].to(torch.uint8)
            labels[scene, source.labels[at]] = 1.0
    return images, labels, masks


def _place(canvas: Tensor, digit: Tensor, corner: int, random: torch.Generator) -> Tensor:
    """Draw a digit [3, 32, 32] of random size into one quarter of a canvas [3, S, S], at a random position in it.

    Returns:
        which pixels belong to it, bool [S, S].
    """
    half = canvas.shape[1] // 2
    side = int(torch.randint(max(6, half * 5 // 8), half + 1, (), generator=random))
    grey = Image.fromarray(digit[0].numpy()).resize((side, side), Image.Resampling.BILINEAR)  # in integers, alike everywhere
    resized = torch.from_numpy(np.array(grey)).expand(3, side, side)
    top, left = (int(torch.randint(half - side + 1, (), generator=random)) for _ in range(2))
    top, left = top + half * (corner // 2), left + half * (corner % 2)
    part = canvas[:, top : top + side, left : left + side]
    torch.maximum(part, resized, out=part)
    inked = torch.zeros(canvas.shape[1:], dtype=torch.bool)
    inked[top : top + side, left : left + side] = resized[0] > INK
    return inked
