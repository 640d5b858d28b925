"""Folders of images: one folder per class, directly below or in ``train``, ``val`` and ``test``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from kdengine.data.dataset import Data, Split
from kdengine.data.image_files import ImageFiles, root_of
from kdengine.data.items import HELD_OUT, SPLIT_OPTION, data_of
from kdengine.data.maskfolder import is_maskfolder
from kdengine.errors import DataError

__all__ = ["folder_hint", "imagefolder"]

SPLITS = ("train", "training", "testing", *HELD_OUT)
"""What folders of splits are called, in lower case."""
LISTED = 5
"""Names that a message lists."""


def imagefolder(
    path: str, size: Any = None, split: Any = None, skip_bad: Any = False, crop: Any = 1.0, interpolation: Any = "bicubic"
) -> Data:
    """Images in one folder per class.

    Args:
        path: folder with ``train/CLASS/IMAGE``, and ``test`` or ``val`` likewise, or both; or with ``CLASS/IMAGE``.
        size: rows and columns that images are brought to.
        split: share of the images to hold out for testing, if there is no folder with test images.
        skip_bad: whether images that cannot be read are left out.
        crop: share of the sides of test images that is kept.
        interpolation: how images are resampled.

    Raises:
        DataError: the folder is missing or has another layout, or an option has no valid value.
    """
    root = root_of(path)
    folders = _folders(path, root, split is not None)
    read = {part: _read(path, folder) for part, folder in folders.items()}
    classes = read["train"][0]
    for part, (others, _) in read.items():
        if others != classes:
            odd = _listed(sorted({*classes} ^ {*others}))
            raise DataError(
                f"'{path}': 'train' and '{folders[part].name}' have different classes. Found in only one of them: {odd}."
            )
    splits = {part: images for part, (_, images) in read.items()}
    return data_of(path, classes, splits, size, split, skip_bad, crop, interpolation)


def folder_hint(path: str) -> str:
    """The data specs that a folder may be meant as, as a question; empty if it is no folder, or one without images."""
    root = Path(os.path.expanduser(path))
    if not path or not os.path.isdir(root):
        return ""
    train = _is_split(root / "train")
    if is_maskfolder(root):
        return f"Did you mean 'maskfolder:{path}'?"
    if train or any(_has_images(folder) for folder in _class_folders(root)):
        whole = train and any(_is_split(root / name) for name in HELD_OUT)
        return f"Did you mean 'imagefolder:{path}{'' if whole else SPLIT_OPTION}'?"
    parquet = (file for pattern in ("*.parquet", "*/*.parquet") for file in root.glob(pattern))
    if next(parquet, None) is not None:
        return f"Did you mean 'hf:{path}'?"
    return f"Did you mean 'images:{path}'?" if _has_images(root) else ""


def _folders(path: str, root: Path, split: bool) -> dict[str, Path]:
    """The folders of the splits ``train``, ``test`` and ``validation``; only the first if test images are held out."""
    held_out = [root / name for name in HELD_OUT if _is_split(root / name)]
    if not _is_split(root / "train"):
        return {"train": _unsplit(path, root, held_out, split)}
    if split and held_out:
        raise DataError(
            f"'{path}' has test images already, in '{held_out[0].name}'. Leave @split out; train.validation holds out training "
            "images to choose the best epoch."
        )
    if not split and not held_out:
        raise DataError(
            f"'{path}' needs a folder 'train' and a folder 'test' or 'val', each with one folder per class. To hold out a "
            f"fifth of the training images for testing, write imagefolder:{path}{SPLIT_OPTION}"
        )
    test, validation = [*held_out, None, None][:2]
    found = {"train": root / "train", "test": test, "validation": validation if test == root / "test" else None}
    return {part: folder for part, folder in found.items() if folder is not None}


def _unsplit(path: str, root: Path, held_out: Sequence[Path], split: bool) -> Path:
    """The folder itself, if it has one folder per class and test images are to be held out."""
    classes = _class_folders(root)
    if not classes or held_out:
        near = "" if classes else folder_hint(path)
        raise DataError(
            f"'{path}' needs a folder 'train' and a folder 'test' or 'val', each with one folder per class; or one folder per "
            f"class directly below, and {SPLIT_OPTION} to hold out a fifth of the images for testing. {near}".rstrip()
        )
    names = _listed([folder.name for folder in classes])
    _check_are_classes(path, classes, names)
    if not split:
        raise DataError(
            f"'{path}' has one folder per class ({names}), but no test images. To hold out a fifth of each class, write "
            f"imagefolder:{path}{SPLIT_OPTION}"
        )
    return root


def _check_are_classes(path: str, folders: Sequence[Path], names: str) -> None:
    """Refuse folders that are splits, or the one folder in which the classes are.

    Raises:
        DataError: says what was meant.
    """
    if len(folders) > 1 and all(folder.name.lower() in SPLITS for folder in folders):
        raise DataError(
            f"'{path}' has the folders {names}, which would be its classes. If they are splits, call them 'train', and "
            "'test' or 'val' or both."
        )
    inner = _class_folders(folders[0]) if len(folders) == 1 else []
    if inner and not _has_images(folders[0]):
        raise DataError(
            f"'{path}' has a single folder, {names}, which holds folders in turn ({_listed([one.name for one in inner])}). Did "
            f"you mean 'imagefolder:{os.path.join(path, names)}{SPLIT_OPTION}'?"
        )


def _read(path: str, folder: Path) -> tuple[tuple[str, ...], Split]:
    """Class names and images of a folder with one folder per class."""
    from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

    classes = tuple(found.name for found in _class_folders(folder))
    numbers = {name: number for number, name in enumerate(classes)}
    samples = make_dataset(str(folder), numbers, extensions=IMG_EXTENSIONS, allow_empty=True)
    bare = [classes[number] for number in sorted({*numbers.values()} - {label for _, label in samples})]
    if bare:
        raise DataError(
            f"'{path}': there are no images in {_listed(bare)} of '{folder}'. Remove what is no class, or add images; those "
            f"are files that end in {', '.join(IMG_EXTENSIONS)}."
        )
    return classes, Split(torch.tensor([label for _, label in samples], dtype=torch.int64), items=ImageFiles(samples))


def _class_folders(folder: Path) -> list[Path]:
    """The folders in a folder but the hidden ones, which file managers and notebooks leave behind; sorted by name."""
    found = (below for below in folder.iterdir() if below.is_dir() and not below.name.startswith("."))
    return sorted(found, key=lambda below: below.name)


def _is_split(folder: Path) -> bool:
    """Whether it holds folders, as a split does; a class of vehicles may be called 'train'."""
    return folder.is_dir() and bool(_class_folders(folder))


def _has_images(folder: Path) -> bool:
    return any(file.suffix.lower() in Image.registered_extensions() for file in folder.iterdir())


def _listed(names: Sequence[str]) -> str:
    """The first names."""
    return ", ".join(names[:LISTED]) + (", ..." if len(names) > LISTED else "")
