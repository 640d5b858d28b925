"""Images without labels: any folder of them."""

from __future__ import annotations

from typing import Any

import torch

from kdengine.data.dataset import Data, Split
from kdengine.data.image_files import ImageFiles, files_below, root_of
from kdengine.data.items import data_of
from kdengine.errors import DataError

__all__ = ["images"]


def images(
    path: str, size: Any = None, split: Any = 0.1, skip_bad: Any = False, crop: Any = 1.0, interpolation: Any = "bicubic"
) -> Data:
    """Images without labels: all below a folder, however deep.

    Args:
        path: the folder.
        size: rows and columns that images are brought to.
        split: share of the images to hold out as test images.
        skip_bad: whether images that cannot be read are left out.
        crop: share of the sides of test images that is kept.
        interpolation: how images are resampled.

    Raises:
        DataError: the folder is missing or holds fewer than two images, or an option has no valid value.
    """
    files = files_below(root_of(path))
    if len(files) < 2:
        said = f"only '{files[0]}'" if files else "none"
        raise DataError(f"'{path}' needs at least two images, one to train on and one to test on; there is {said}.")
    items = ImageFiles([(str(file), 0) for file in files])
    splits = {"train": Split(torch.zeros(len(files), dtype=torch.int64), items=items)}
    return data_of(path, (), splits, size, split, skip_bad, crop, interpolation, task="unlabelled")
