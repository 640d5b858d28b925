"""Readers of data sets: the embedded digits, CIFAR, folders of images, Hugging Face ``datasets``, and users' factories."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdengine.config.specs import import_factory
from kdengine.data.csv_files import csv_file
from kdengine.data.dataset import Data, Split
from kdengine.data.digit_scenes import digit_scenes
from kdengine.data.hugging_face import hugging_face
from kdengine.data.image_tree import images
from kdengine.data.imagefolder import imagefolder
from kdengine.data.maskfolder import maskfolder
from kdengine.errors import DataError, cause
from kdengine.seeds import drawing_from

__all__ = ["READERS"]


@cache
def _small_digits() -> tuple[Tensor, Tensor]:
    """The images [1797, 8, 8] and labels [1797] of scikit-learn, read once a process: they are a packed table of text."""
    with drawing_from(0):  # importing scikit-learn draws a random number, the first time
        from sklearn.datasets import load_digits

    bunch = load_digits()
    return torch.from_numpy(bunch.images).mul(255 / 16).round().to(torch.uint8), torch.from_numpy(bunch.target).long()


def _digits(name: str) -> Data:
    """The 8 x 8 handwritten digits of scikit-learn, enlarged four times; every fifth of each class is a test image."""
    small, labels = _small_digits()
    images = small.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None].repeat(1, 3, 1, 1)
    test = torch.zeros(len(labels), dtype=torch.bool)
    test[labels.argsort(stable=True)[4::5]] = True
    train = Split(labels[~test], images[~test])
    classes = tuple(map(str, range(10)))
    return Data(name, classes, (3, 32, 32), (), (), "crop", train, Split(labels[test], images[test]))


def _digit_scenes(name: str, size: int = 64, target: str = "labels") -> Data:
    """Canvases with several of the digits."""
    return digit_scenes(name, _digits("digits"), size, target)


def _torchvision_cifar(name: str, root: str = "") -> Data:
    """CIFAR through torchvision, downloaded into the user's cache on first use."""
    import torchvision

    from kdengine.cache import cache_folder

    kind = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}[name]
    folder = Path(str(root)) if root else cache_folder("data")
    try:
        train, test = (kind(str(folder), train=train, download=not root) for train in (True, False))
    except Exception as error:  # downloads fail in many ways
        raise DataError(
            f"{name} could not be loaded: {error}. Without a network, give a folder: 'hf:FOLDER' (parquet files) or "
            f"'{name}@root=FOLDER' (as torchvision leaves it)."
        ) from error
    train_split, test_split = (
        Split(torch.tensor(part.targets), torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous())
        for part in (train, test)
    )
    return Data(name, tuple(train.classes), (3, 32, 32), (), (), "crop-flip", train_split, test_split)


def _python(name: str, **options: Any) -> Any:
    """What the user's factory returns."""
    factory = import_factory(name, DataError)
    try:
        return factory(**options)
    except DataError:
        raise
    except (Exception, SystemExit) as error:  # the user's factory may fail in any way
        raise DataError(f"'python:{name}' failed: {cause(error).rstrip('.')}.") from error


READERS: dict[str, Any] = {
    "digits": _digits,
    "digit-scenes": _digit_scenes,
    "cifar10": _torchvision_cifar,
    "cifar100": _torchvision_cifar,
    "imagefolder": imagefolder,
    "hf": hugging_face,
    "images": images,
    "maskfolder": maskfolder,
    "csv": csv_file,
    "python": _python,
}
