"""From a data spec such as ``"cifar100"`` to batches, class names and normalisation."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from kdengine.batches import Batches, MemoryBatches, StreamBatches
from kdengine.errors import DataError, did_you_mean
from kdengine.registry import Registry
from kdengine.settings import TrainSettings
from kdengine.specs import Spec, import_factory

__all__ = ["BUILT_IN", "Data", "Split", "load_data"]

MEMORY_LIMIT = 2 * 2**30
"""Bytes of decoded images up to which a set is kept in memory."""
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Split:
    """Images and labels of one split: decoded in memory, or read as they are needed.

    Attributes:
        labels: int64 [N].
        images: uint8 [N, C, H, W], or None for a split that is read by workers.
        items: sequence of (PIL image, label), where ``images`` is None.
    """

    labels: Tensor
    images: Tensor | None = None
    items: Sequence[Any] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int | None) -> Split:
        """The first ``count`` images, or all."""
        if count is None:
            return self
        images = None if self.images is None else self.images[:count]
        return Split(self.labels[:count], images, _Head(self.items, count) if images is None else ())


@dataclass(frozen=True)
class Data:
    """A data set, ready for training.

    Attributes:
        name: the spec it came from.
        classes: class names, in the order of the indices.
        input_size: shape of one image, (C, H, W).
        mean: per channel, on the scale 0 to 1.
        std: per channel, on the scale 0 to 1.
        augment: the augmentation that suits it.
        train: what is trained on.
        test: what accuracy is measured on.
        fingerprint: hash of the contents; equal for equal data.
    """

    name: str
    classes: tuple[str, ...]
    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: str
    train: Split
    test: Split
    fingerprint: str = ""

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def train_batches(self, settings: TrainSettings, seed: int, device: torch.device) -> Batches:
        """Shuffled and augmented batches of the training split."""
        augment = self.augment if settings.augment == "auto" else settings.augment
        return self._batches(self.train, settings, device, seed, augment)

    def test_batches(self, settings: TrainSettings, device: torch.device) -> Batches:
        """Batches of the test split in their own order, not augmented."""
        return self._batches(self.test, replace_batch(settings, 500), device, None, "none")

    def describe(self) -> dict[str, Any]:
        """What a run folder keeps of the data."""
        return {
            "name": self.name,
            "num_classes": self.num_classes,
            "train_images": len(self.train),
            "test_images": len(self.test),
            "input_size": list(self.input_size),
            "mean": list(self.mean),
            "std": list(self.std),
            "fingerprint": self.fingerprint,
        }

    def _batches(
        self, split: Split, settings: TrainSettings, device: torch.device, seed: int | None, augment: str
    ) -> Batches:
        if split.images is not None:
            # Images go to the accelerator once; there they are cheap to augment.
            images = split.images.to(device)
            return MemoryBatches(
                images, split.labels.to(device), self.mean, self.std, settings.batch_size, seed, augment, device
            )
        transform = _timm_transform(self, augment)
        return StreamBatches(split.items, transform, settings.batch_size, seed, settings.workers, device)


def replace_batch(settings: TrainSettings, batch_size: int) -> TrainSettings:
    """The same settings with larger batches, for passes without gradients."""
    return settings.model_copy(update={"batch_size": max(settings.batch_size, batch_size)})


def load_data(text: str, registry: Registry | None = None) -> Data:
    """Load what a data spec names.

    Args:
        text: ``NAME[@KEY=VALUE...]``: ``digits``, ``cifar10``, ``cifar100``, ``imagefolder:PATH``,
            ``hf:NAME-OR-FOLDER`` or ``python:module:factory``. Any takes ``@train=N`` and ``@test=N``: only the first
            N images; folders and hub names take ``@size=S`` (resize to S x S) and ``@label=COLUMN``.
        registry: finds the data sets that plugins offer.

    Raises:
        DataError: the name is unknown, or what it names is missing or malformed.
    """
    spec = Spec.parse(text, DataError)
    options = dict(spec.options)
    limits = [options.pop(split, None) for split in ("train", "test")]
    load = _LOADERS.get(spec.scheme or spec.name) or (registry and registry.dataset(spec.scheme or spec.name))
    if not load:
        near = did_you_mean(spec.scheme or spec.name, _LOADERS) or f"Data is one of {', '.join(BUILT_IN)}."
        raise DataError(f"There is no data set '{text}'. {near}")
    try:
        inspect.signature(load).bind(spec.name, **options)
    except TypeError as error:
        raise DataError(f"'{text}': {error}. Options of data are written NAME@KEY=VALUE.") from error
    return _finish(replace(load(spec.name, **options), name=text), *limits)


def _finish(data: Data, train: Any, test: Any) -> Data:
    """Cut to the asked sizes, check the labels, and take normalisation and fingerprint from the images."""
    for limit in (train, test):
        if limit is not None and (not isinstance(limit, int) or limit < 1):
            raise DataError(f"'{data.name}': @train and @test take a number of images, got {limit!r}.")
    data = replace(data, train=data.train.first(train), test=data.test.first(test))
    for split in (data.train, data.test):
        if len(split) == 0:
            raise DataError(f"'{data.name}' has an empty split: training and test images are both needed.")
        if int(split.labels.max()) >= data.num_classes or int(split.labels.min()) < 0:
            raise DataError(f"'{data.name}' has a label outside its {data.num_classes} classes: {int(split.labels.max())}.")
    if data.train.images is not None and not data.mean:
        mean, std = statistics(data.train.images)
        data = replace(data, mean=mean, std=std)
    return replace(data, fingerprint=data.fingerprint or _fingerprint(data))


def statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of uint8 [N, C, H, W], on the scale 0 to 1, to four digits."""
    counts = torch.stack([torch.bincount(channel.flatten().long(), minlength=256) for channel in images.unbind(1)])
    values = torch.arange(256, dtype=torch.float64) / 255
    share = counts.double() / counts.sum(1, keepdim=True)
    mean = (share * values).sum(1)
    std = ((share * values**2).sum(1) - mean**2).clamp(min=1e-12).sqrt()
    return tuple(round(float(m), 4) for m in mean), tuple(max(round(float(s), 4), 1e-4) for s in std)


def _fingerprint(data: Data) -> str:
    digest = hashlib.sha256(repr((data.classes, data.input_size, len(data.train), len(data.test))).encode())
    for split in (data.train, data.test):
        digest.update(split.labels.numpy().tobytes())
        if split.images is not None:
            digest.update(split.images.numpy().tobytes())
    return digest.hexdigest()[:16]


def _digits(name: str) -> Data:
    """The handwritten digits of scikit-learn, 8 x 8, enlarged four times; every fifth image is a test image."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    small = torch.from_numpy(bunch.images).mul(255 / 16).round().to(torch.uint8)
    images = small.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None].repeat(1, 3, 1, 1)
    labels = torch.from_numpy(bunch.target).long()
    test = torch.arange(len(labels)) % 5 == 4
    train = Split(labels[~test], images[~test])
    classes = tuple(map(str, range(10)))
    return Data(name, classes, (3, 32, 32), (), (), "crop", train, Split(labels[test], images[test]))


def _torchvision_cifar(name: str, root: str = "") -> Data:
    """CIFAR through torchvision, downloaded into the user's cache on first use."""
    import torchvision

    from kdengine.cache import cache_folder

    kind = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}[name]
    folder = Path(root) if root else cache_folder("data")
    try:
        train, test = (kind(str(folder), train=train, download=not root) for train in (True, False))
    except Exception as error:  # downloads fail in many ways
        raise DataError(
            f"{name} could not be loaded: {error}. Without a network, give a folder: 'hf:FOLDER' or '{name}@root=FOLDER'."
        ) from error
    splits = [
        Split(torch.tensor(part.targets), torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous())
        for part in (train, test)
    ]
    return Data(name, tuple(train.classes), (3, 32, 32), (), (), "crop-flip", *splits)


def _imagefolder(path: str, size: int = 0) -> Data:
    """Folders ``train/CLASS/IMAGE`` and ``test/`` or ``val/``, as torchvision's ImageFolder reads them."""
    from torchvision.datasets import ImageFolder

    root = Path(path).expanduser()
    held_out = next((name for name in ("test", "val", "validation") if (root / name).is_dir()), None)
    if not (root / "train").is_dir() or held_out is None:
        raise DataError(f"'{path}' needs a folder 'train' and a folder 'test' or 'val', each with one folder a class.")
    try:
        train, test = ImageFolder(str(root / "train")), ImageFolder(str(root / held_out))
    except FileNotFoundError as error:
        raise DataError(f"'{path}': {error}") from error
    if train.classes != test.classes:
        raise DataError(f"'{path}': 'train' and '{held_out}' hold different classes: {train.classes} and {test.classes}.")
    return _from_items(path, tuple(train.classes), _Folder(train), _Folder(test), size)


class _Folder:
    """(PIL image, label) of an ImageFolder."""

    def __init__(self, folder: Any) -> None:
        self.folder = folder
        self.labels = folder.targets

    def __len__(self) -> int:
        return len(self.folder)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        item: tuple[Image.Image, int] = self.folder[index]
        return item


def _hugging_face(name: str, label: str = "", size: int = 0) -> Data:
    """A data set of Hugging Face ``datasets``: a name on the hub, or a folder of parquet files."""
    try:
        import datasets
    except ImportError as error:
        raise DataError("'hf:' data needs the package 'datasets': pip install 'kdengine[hf]'.") from error
    if name.startswith((".", "/", "~")) and not Path(name).expanduser().is_dir():
        raise DataError(f"There is no folder '{name}'.")
    bars = datasets.utils.logging.is_progress_bar_enabled()
    datasets.utils.logging.disable_progress_bar()
    try:
        splits = datasets.load_dataset(str(Path(name).expanduser()) if Path(name).expanduser().is_dir() else name)
    except Exception as error:  # the hub and the readers fail in many ways
        raise DataError(f"'hf:{name}' could not be loaded: {error}") from error
    finally:
        if bars:
            datasets.utils.logging.enable_progress_bar()
    held_out = next((split for split in ("test", "validation", "val") if split in splits), None)
    if "train" not in splits or held_out is None:
        raise DataError(f"'hf:{name}' has the splits {', '.join(splits)}; 'train' and 'test' or 'validation' are needed.")
    image, target, classes = _columns(name, splits["train"], label, datasets)
    train, test = (_HFItems(splits[split], image, target, datasets) for split in ("train", held_out))
    return _from_items(name, classes, train, test, size)


def _columns(name: str, split: Any, label: str, datasets: Any) -> tuple[str, str, tuple[str, ...]]:
    """The image column, the label column and the class names."""
    features = split.features
    images = [column for column, kind in features.items() if isinstance(kind, datasets.Image)]
    targets = {column: kind for column, kind in features.items() if isinstance(kind, datasets.ClassLabel)}
    wanted = label or ("label" if "label" in targets else next(iter(targets), ""))
    if not images or wanted not in targets:
        have = ", ".join(features)
        raise DataError(f"'hf:{name}' needs an image column and a column of class labels; it has {have}. Choose with @label=COLUMN.")
    return images[0], wanted, tuple(targets[wanted].names)


class _HFItems:
    """(PIL image, label) of a split of Hugging Face ``datasets``; images are decoded only when asked for."""

    def __init__(self, split: Any, image: str, target: str, datasets: Any) -> None:
        self.split = split.cast_column(image, datasets.Image(decode=False)).select_columns([image, target])
        self.image, self.target = image, target
        self.labels = list(split[target])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        import io

        raw = self.split[index][self.image]
        source = io.BytesIO(raw["bytes"]) if raw["bytes"] is not None else raw["path"]
        return Image.open(source), self.labels[index]


def _from_items(name: str, classes: tuple[str, ...], train: Any, test: Any, size: int) -> Data:
    """Decode both splits into memory where they fit, else leave them to be read by workers."""
    width, height = (size, size) if size else _common_size(train) or (224, 224)
    shape = (3, height, width)
    labels = [torch.tensor(part.labels, dtype=torch.int64) for part in (train, test)]
    augment = "crop-flip"
    if (len(train) + len(test)) * 3 * height * width <= MEMORY_LIMIT:
        images = [_decode(part, width, height) for part in (train, test)]
        return Data(name, classes, shape, (), (), augment, Split(labels[0], images[0]), Split(labels[1], images[1]))
    return Data(
        name, classes, shape, *IMAGENET, augment, Split(labels[0], items=train), Split(labels[1], items=test)
    )


def _common_size(items: Any, looked_at: int = 32) -> tuple[int, int] | None:
    """Width and height if the first images agree on them."""
    sizes = {items[index][0].size for index in range(min(looked_at, len(items)))}
    return sizes.pop() if len(sizes) == 1 else None


def _decode(items: Any, width: int, height: int) -> Tensor:
    """All images as one tensor, uint8 [N, 3, H, W]."""
    out = torch.empty(len(items), 3, height, width, dtype=torch.uint8)

    def decode(index: int) -> None:
        image = items[index][0].convert("RGB")
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BICUBIC)
        out[index] = torch.from_numpy(np.array(image)).permute(2, 0, 1)

    try:
        with ThreadPoolExecutor() as pool:
            for _ in pool.map(decode, range(len(items)), chunksize=256):
                pass
    except OSError as error:
        raise DataError(f"An image cannot be read: {error}.") from error
    return out


def _timm_transform(data: Data, augment: str) -> Any:
    """timm's ImageNet-style pipeline, with the normalisation of the data."""
    from timm.data import create_transform

    training = augment != "none"
    flip = 0.5 if augment == "crop-flip" else 0.0
    return create_transform(
        data.input_size, is_training=training, mean=data.mean, std=data.std, hflip=flip, color_jitter=None
    )


class _Head(Sequence[Any]):
    """The first items of a sequence."""

    def __init__(self, items: Sequence[Any], count: int) -> None:
        self.items, self.count = items, min(count, len(items))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: Any) -> Any:
        return self.items[index]


def _python(name: str, **options: Any) -> Data:
    """A user's factory that returns a :class:`Data`."""
    data = import_factory(name, DataError)(**options)
    if not isinstance(data, Data):
        raise DataError(f"'python:{name}' must return a kdengine.data.Data, got {type(data).__name__}.")
    return data


_LOADERS: dict[str, Any] = {
    "digits": _digits,
    "cifar10": _torchvision_cifar,
    "cifar100": _torchvision_cifar,
    "imagefolder": _imagefolder,
    "hf": _hugging_face,
    "python": _python,
}
BUILT_IN = {
    "digits": "1,797 handwritten digits of scikit-learn, 10 classes; ships with the package, no download",
    "cifar10": "CIFAR-10 through torchvision, downloaded once",
    "cifar100": "CIFAR-100 through torchvision, downloaded once",
    "imagefolder:PATH": "folders train/CLASS/IMAGE and test/ or val/",
    "hf:NAME-OR-FOLDER": "Hugging Face datasets: a name on the hub, or a folder of parquet files",
    "python:MODULE:FACTORY": "your own factory of kdengine.data.Data",
}
