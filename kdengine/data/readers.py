"""Readers of data sets: the embedded digits, CIFAR, folders of images, Hugging Face ``datasets``, and users' factories."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from kdengine.config.specs import import_factory
from kdengine.data.dataset import Data, Split
from kdengine.data.decoding import opened, reason
from kdengine.errors import DataError, cause
from kdengine.seeds import drawing_from, undisturbed

__all__ = ["READERS"]


def _digits(name: str) -> Data:
    """The 8 x 8 handwritten digits of scikit-learn, enlarged four times; every fifth of each class is a test image."""
    with drawing_from(0):  # importing scikit-learn draws a random number, the first time
        from sklearn.datasets import load_digits

    bunch = load_digits()
    small = torch.from_numpy(bunch.images).mul(255 / 16).round().to(torch.uint8)
    images = small.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None].repeat(1, 3, 1, 1)
    labels = torch.from_numpy(bunch.target).long()
    test = torch.zeros(len(labels), dtype=torch.bool)
    test[labels.argsort(stable=True)[4::5]] = True
    train = Split(labels[~test], images[~test])
    classes = tuple(map(str, range(10)))
    return Data(name, classes, (3, 32, 32), (), (), "crop", train, Split(labels[test], images[test]))


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


def _imagefolder(path: str, size: int = 0) -> Data:
    """Folders ``train/CLASS/IMAGE`` and ``test/`` or ``val/``, as torchvision's ImageFolder reads them."""
    from torchvision.datasets import ImageFolder

    root = Path(os.path.expanduser(path))
    if not os.path.isdir(root):  # unlike Path.is_dir, false for what cannot be a path at all
        raise DataError(f"There is no folder '{path}'.")
    held_out = next((name for name in ("test", "val", "validation") if (root / name).is_dir()), None)
    if not (root / "train").is_dir() or held_out is None:
        raise DataError(f"'{path}' needs a folder 'train' and a folder 'test' or 'val', each with one folder per class.")
    try:
        train, test = ImageFolder(str(root / "train")), ImageFolder(str(root / held_out))
    except FileNotFoundError as error:
        raise DataError(f"'{path}': {error}") from error
    if train.classes != test.classes:
        odd = sorted({*train.classes} ^ {*test.classes})
        shown = ", ".join(odd[:5]) + (", ..." if len(odd) > 5 else "")
        raise DataError(f"'{path}': 'train' and '{held_out}' have different classes. Found in only one of them: {shown}.")
    return _from_items(path, tuple(train.classes), _Folder(train), _Folder(test), size)


class _Folder:
    """(PIL image, label) of an ImageFolder."""

    def __init__(self, folder: Any) -> None:
        self.folder = folder
        self.labels = folder.targets

    def __len__(self) -> int:
        return len(self.folder)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        try:
            item: tuple[Image.Image, int] = self.folder[index]
        except Exception as error:  # damaged files fail in many ways
            raise OSError(f"{reason(error)} ('{self.folder.samples[index][0]}')") from error
        return item


def _hugging_face(name: str, label: str = "", size: int = 0) -> Data:
    """A data set of Hugging Face ``datasets``: a name on the hub, or a folder of parquet files."""
    try:
        import datasets
    except ImportError as error:
        raise DataError("'hf:' data needs the package 'datasets': pip install 'kdengine[hf]'.") from error
    folder = Path(os.path.expanduser(name))
    found = os.path.isdir(folder)
    if name.startswith((".", "/", "~")) and not found:
        raise DataError(f"There is no folder '{name}'.")
    try:
        with _without_bars(datasets.utils.logging):
            splits = datasets.load_dataset(str(folder) if found else name)
    except Exception as error:  # the hub and the readers fail in many ways
        raise DataError(f"'hf:{name}' could not be loaded: {error}") from error
    held_out = next((split for split in ("test", "validation", "val") if split in splits), None)
    if "train" not in splits or held_out is None:
        raise DataError(f"'hf:{name}' has the splits {', '.join(splits)}, but needs 'train', and 'test' or 'validation'.")
    image, target, classes = _columns(name, splits["train"], label, datasets)
    train, test = (_HFItems(splits[split], image, target, datasets) for split in ("train", held_out))
    return _from_items(name, classes, train, test, size)


_bars_before: list[bool] = []
"""Whether each thread that is loading now found progress bars shown; only the first can have."""


@contextmanager
def _without_bars(logging: Any) -> Iterator[None]:
    """Hide the progress bars of ``datasets``; the last thread to finish loading restores them."""
    with undisturbed():
        _bars_before.append(logging.is_progress_bar_enabled())
        logging.disable_progress_bar()
    try:
        yield
    finally:
        with undisturbed():
            if _bars_before.pop() and not _bars_before:
                logging.enable_progress_bar()


def _columns(name: str, split: Any, label: str, datasets: Any) -> tuple[str, str, tuple[str, ...]]:
    """The image column, the label column and the class names."""
    features = split.features
    images = [column for column, kind in features.items() if isinstance(kind, datasets.Image)]
    targets = {column: kind for column, kind in features.items() if isinstance(kind, datasets.ClassLabel)}
    wanted = label or ("label" if "label" in targets else next(iter(targets), ""))
    if not images or wanted not in targets:
        have = ", ".join(f"{column} ({type(kind).__name__})" for column, kind in features.items())
        choice = f" Labels are in {', '.join(targets)}: choose with @label=COLUMN." if targets else ""
        raise DataError(f"'hf:{name}' needs an Image column and a ClassLabel column, but has {have}.{choice}")
    return images[0], wanted, tuple(targets[wanted].names)


class _HFItems:
    """(PIL image, label) of a split of Hugging Face ``datasets``; an image is decoded when it is asked for."""

    def __init__(self, split: Any, image: str, target: str, datasets: Any) -> None:
        self.split = split.cast_column(image, datasets.Image(decode=False)).select_columns([image, target])
        self.image, self.target = image, target
        self.labels = list(split[target])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        raw = self.split[index][self.image]
        source = io.BytesIO(raw["bytes"]) if raw["bytes"] is not None else raw["path"]
        return Image.open(source).convert("RGB"), self.labels[index]


def _from_items(name: str, classes: tuple[str, ...], train: Any, test: Any, size: Any) -> Data:
    """Data whose images are decoded later: at once if they fit in memory, otherwise by workers."""
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise DataError(f"'{name}': @size takes a number of pixels, such as 224, got {size!r}.")
    width, height = (size, size) if size else _common_size(train) or (224, 224)
    train, test = (Split(torch.tensor(part.labels, dtype=torch.int64), items=part) for part in (train, test))
    return Data(name, classes, (3, height, width), (), (), "crop-flip", train, test)


def _common_size(items: Sequence[Any], looked_at: int = 32) -> tuple[int, int] | None:
    """Width and height of the images, if the first ones agree."""
    sizes = {opened(items, index)[0].size for index in range(min(looked_at, len(items)))}
    return sizes.pop() if len(sizes) == 1 else None


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
    "cifar10": _torchvision_cifar,
    "cifar100": _torchvision_cifar,
    "imagefolder": _imagefolder,
    "hf": _hugging_face,
    "python": _python,
}
