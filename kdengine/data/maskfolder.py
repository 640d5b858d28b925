"""Folders of images and of masks: a class for each pixel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from kdengine.data.dataset import Data
from kdengine.data.decoding import SKIP_BAD
from kdengine.data.image_files import files_below, opened_file, root_of
from kdengine.data.items import HELD_OUT, SPLIT_OPTION, data_of, listed, parts_of
from kdengine.data.masked_items import masked_splits
from kdengine.data.masks import IGNORED
from kdengine.data.rgb import as_rgb
from kdengine.errors import DataError, counted

__all__ = ["is_maskfolder", "maskfolder"]

IMAGES, MASKS = "images", "masks"
"""Names of the folders."""
NAMES = "classes.txt"
"""The file with the class names, one a line, in the order of their indices."""


def maskfolder(
    path: str,
    size: Any = None,
    split: Any = None,
    ignore: Any = IGNORED,
    skip_bad: Any = False,
    crop: Any = 1.0,
    interpolation: Any = "bicubic",
) -> Data:
    """Images, each with a mask of the same name.

    Args:
        path: folder with ``images`` and ``masks``; these may be in ``train``, ``test`` and ``val``, or have such folders.
        size: rows and columns that images are brought to.
        split: share of the images to hold out for testing, if there are no test images.
        ignore: value of the pixels that belong to no class, besides 255.
        skip_bad: whether images that cannot be read or have no mask are left out.
        crop: share of the sides of test images that is kept.
        interpolation: how images are resampled; masks take the nearest pixel.

    Raises:
        DataError: the folder is missing or has another layout, images have no mask, or an option has no valid value.
    """
    root = root_of(path)
    parts = parts_of(f"maskfolder:{path}", _folders(path, root), split is not None)
    sources = {part: PairsOfFiles(*folders) for part, folders in parts.items()}
    missing = [] if skip_bad is True else [file for source in sources.values() for file in source.without_mask]
    if missing:
        error = DataError(
            f"'{path}': {counted(len(missing), 'image')} without a mask. A mask is in '{MASKS}' under the name of its image, "
            f"as a PNG: {listed(missing)}."
        )
        error.add_note(SKIP_BAD)
        raise error
    classes, splits = masked_splits(path, sources, ignore, _names(root), skip_bad is True)
    return data_of(path, classes, splits, size, split, skip_bad, crop, interpolation, task="segmentation")


def is_maskfolder(root: Path) -> bool:
    """Whether a folder has images and masks in one of the layouts that are read."""
    return any(_pair(root, part) for part in ("", "train"))


class PairsOfFiles:
    """Image files and mask files of the same names, without their endings.

    Args:
        images: folder of images, which may have folders.
        masks: folder of masks, with the same folders.
    """

    def __init__(self, images: Path, masks: Path) -> None:
        by_name = {file.relative_to(masks).with_suffix(""): file for file in files_below(masks)}
        files = files_below(images)
        self.pairs = [(str(file), by_name.get(file.relative_to(images).with_suffix(""))) for file in files]
        self.masks = masks

    @property
    def without_mask(self) -> list[str]:
        """The images that have no mask."""
        return [image for image, mask in self.pairs if mask is None]

    def __len__(self) -> int:
        return len(self.pairs)

    def name(self, index: int) -> str:
        """The path of a mask; of the image, if that has none."""
        return f"'{self.pairs[index][1] or self.pairs[index][0]}'"

    def image(self, index: int) -> Image.Image:
        """An image, decoded.

        Raises:
            OSError: it cannot be.
        """
        return opened_file(self.pairs[index][0], as_rgb)

    def mask(self, index: int) -> Image.Image:
        """A mask as it is, decoded.

        Raises:
            OSError: it cannot be, or there is none.
        """
        image, mask = self.pairs[index]
        if mask is None:
            raise OSError(f"'{image}' has no mask in '{self.masks}'")
        return opened_file(str(mask), Image.Image.copy)


def _folders(path: str, root: Path) -> dict[str, tuple[Path, Path]]:
    """The folders of images and masks of each part, ``train`` among them."""
    found = {part: pair for part in ("train", *HELD_OUT) if (pair := _pair(root, part))}
    whole = _pair(root, "")
    if not found and whole:
        return {"train": whole}
    if "train" not in found:
        raise DataError(
            f"'{path}' needs a folder '{IMAGES}' and a folder '{MASKS}', both in 'train' and in 'test' or 'val'; or both "
            f"directly below, and {SPLIT_OPTION} to hold out a fifth of the images for testing."
        )
    return found


def _pair(root: Path, part: str) -> tuple[Path, Path] | None:
    """The folders of images and masks of a part, if it has both: ``train/images`` or ``images/train``."""
    layouts = (root / part / IMAGES, root / part / MASKS), (root / IMAGES / part, root / MASKS / part)
    return next((pair for pair in layouts if all(folder.is_dir() for folder in pair)), None)


def _names(root: Path) -> Sequence[str]:
    """The class names, if a file tells them."""
    file = root / NAMES
    return [line.strip() for line in file.read_text("utf-8").splitlines() if line.strip()] if file.is_file() else ()
