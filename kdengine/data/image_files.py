"""Files of images: found below a folder, and opened one at a time when they are asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from kdengine.data.decoding import SKIP_BAD, reason
from kdengine.data.rgb import as_rgb
from kdengine.errors import DataError, missing

__all__ = ["ImageFiles", "files_below", "opened_file", "root_of"]


def root_of(path: str) -> Path:
    """The folder that a path names; ``~`` is the user's home.

    Raises:
        DataError: there is no such folder.
    """
    root = Path(os.path.expanduser(path))
    if not os.path.isdir(root):  # unlike Path.is_dir, false for what cannot be a path at all
        raise DataError(missing("folder", path))
    return root


def files_below(folder: Path) -> list[Path]:
    """All image files below a folder in the order of their paths, without hidden files and folders; links are followed."""
    from torchvision.datasets.folder import IMG_EXTENSIONS

    found: list[Path] = []
    seen: set[str] = set()
    for here, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:  # links may lead in circles
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += (Path(here, name) for name in names if not name.startswith(".") and name.lower().endswith(IMG_EXTENSIONS))
    return sorted(found)


class ImageFiles(Sequence[Any]):
    """(PIL image, label) of image files; an image is decoded when it is asked for.

    Args:
        samples: path and label of each.
    """

    def __init__(self, samples: Sequence[tuple[str, Any]]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: Any) -> Any:
        path, label = self.samples[index]
        return opened_file(path, as_rgb), label


def opened_file(path: str, decode: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """An image file, decoded.

    Raises:
        OSError: it cannot be; names the file.
    """
    try:
        with open(path, "rb") as file:
            return decode(Image.open(file))
    except Exception as error:  # damaged files fail in many ways
        unreadable = OSError(f"{reason(error)} ('{path}')")
        unreadable.add_note(SKIP_BAD)
        raise unreadable from error
