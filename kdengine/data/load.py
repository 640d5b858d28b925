"""From a data spec such as ``"cifar100"`` to a data set that is checked, decoded and normalised."""

from __future__ import annotations

import hashlib
import inspect
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from kdengine.config.specs import Spec
from kdengine.data import decoding
from kdengine.data.dataset import Data, Split
from kdengine.data.imagefolder import folder_hint
from kdengine.data.readers import READERS
from kdengine.errors import DataError, KDError, cause, did_you_mean
from kdengine.plugins.registry import Registry
from kdengine.tasks import BUILT_IN as BUILT_IN_TASKS

__all__ = ["BUILT_IN", "load_data", "ready"]

log = logging.getLogger(__name__)

STATISTICS_PIXELS = 2**26
"""Pixels of training images, altogether, from which mean and deviation are taken: all 50,000 of CIFAR, 1,337 of 224 x 224."""

BUILT_IN = {
    "digits": "1,797 handwritten digits of scikit-learn, 10 classes; ships with the package, no download",
    "digit-scenes": "2,500 canvases with several of these digits, made in code: labels, or masks with @target=masks",
    "cifar10": "CIFAR-10 through torchvision, downloaded once",
    "cifar100": "CIFAR-100 through torchvision, downloaded once",
    "imagefolder:PATH": "folders train/CLASS/IMAGE and test/ or val/ or both; or CLASS/IMAGE with @split=0.2",
    "hf:NAME-OR-FOLDER": "Hugging Face datasets: a name on the hub, or a folder of parquet files; labels or masks",
    "maskfolder:PATH": "segmentation: folders images and masks, in train and test or val; or both with @split=0.2",
    "csv:FILE": "a table with the columns file and label or labels, and perhaps split; or with @split=0.2",
    "images:PATH": "all images below a folder, without labels; a tenth is held out to test on",
    "python:MODULE:FACTORY": "your own factory of kdengine.Data",
}


def load_data(text: str, registry: Registry | None = None) -> Data:
    """Load the data set that a spec names.

    Args:
        text: ``NAME[@KEY=VALUE...]``; the names are those of ``BUILT_IN`` and of plugins. All take ``@train=N`` and
            ``@test=N``: only the first N images. What reads files takes ``@size=S`` or ``@size=HxW``: images are resized to
            cover so many pixels and cropped in the middle; ``@split=SHARE``: the share of the images to test on, if there is
            no split for that; ``@skip_bad=true``: images that cannot be read are left out.
        registry: finds the data sets that plugins offer.

    Raises:
        DataError: the name is unknown, or what it names is missing or malformed.
    """
    hint = folder_hint(text) if "@" in text else ""
    if hint:  # before what follows the @ is taken for options
        raise DataError(f"There is no data set '{text}'. {hint}")
    spec = Spec.parse(text, DataError)
    options = dict(spec.options)
    limits = [options.pop(split, None) for split in ("train", "test")]
    for limit in limits:
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
            raise DataError(f"'{text}': @train and @test take a number of images, got {limit!r}.")
    scheme = spec.scheme or spec.name
    load = READERS.get(scheme) or (registry and registry.dataset(scheme))
    if not load:
        names = [*READERS, *(registry.offered("datasets") if registry else ())]
        folder = folder_hint(text) or ("" if spec.scheme else folder_hint(spec.name))
        near = folder or did_you_mean(scheme, names) or f"Data is one of {', '.join(BUILT_IN)}."
        raise DataError(f"There is no data set '{text}'. {near}")
    _check_form(text, spec, options, load)
    try:
        data = load(spec.name, **options)
    except KDError:
        raise
    except (Exception, SystemExit) as error:  # files, the network, and a plugin's factory may fail in any way
        raise DataError(f"'{text}' could not be loaded: {cause(error).rstrip('.')}.") from error
    if not isinstance(data, Data):
        raise DataError(f"'{text}' must give a kdengine.Data, got {type(data).__name__}.")
    cut = replace(data, name=text, train=data.train.first(limits[0]), test=data.test.first(limits[1]))
    _warn_of_classes(cut, data)
    return ready(cut)


def ready(data: Data, hold: bool = True) -> Data:
    """The data set, checked, and decoded if it fits in memory; missing mean, deviation and fingerprint are computed.

    Args:
        data: as it was loaded.
        hold: whether images may be held in memory; if not, they are read anew in every epoch.

    Raises:
        DataError: a split is empty, its images or labels are not what the data says, or an image cannot be read.
    """
    return _finished(_checked(data), hold)


def _warn_of_classes(cut: Data, whole: Data) -> None:
    """Say so if the first images of a split lack classes, as those of a folder do, which come class by class."""
    by_class = cut.targets is not None and cut.targets.ndim == 1
    for part, split in _splits(cut).items() if by_class else ():
        kept, known = (len(images.labels.unique()) for images in (split, _splits(whole)[part]))
        if kept < known <= len(split):
            log.warning("The first %d %s images of '%s' show only %d of %d classes", len(split), part, cut.name, kept, known)


def _check_form(text: str, spec: Spec, options: Mapping[str, Any], load: Any) -> None:
    """Refuse a name where none belongs, a missing name, and options that the reader does not have."""
    forms = {form.partition(":")[0]: form for form in BUILT_IN}
    form = forms.get(spec.scheme or spec.name)
    if form is not None and (":" in form) != bool(spec.scheme):
        raise DataError(f"'{text}' is not a valid data spec. Write {form}.")
    try:
        signature = inspect.signature(load)
    except ValueError:  # callables not written in Python may have no signature
        return
    try:
        signature.bind(spec.name, **options)
    except TypeError as error:
        allowed = ["train", "test", *list(signature.parameters)[1:]]
        near = [did_you_mean(option, allowed) for option in options if option not in allowed]
        raise DataError(f"'{text}': {error}. {' '.join(near).strip() or 'It takes @' + ', @'.join(allowed) + '.'}") from error


def _checked(data: Data) -> Data:
    """The same data; its splits and its normalisation are sound."""
    for split in _splits(data).values():
        if len(split) == 0:
            raise DataError(f"'{data.name}' has an empty split, but both training and test images are needed.")
        task = BUILT_IN_TASKS.get(data.task)
        if task is not None:
            task.check_targets(split.sample_targets, data.num_classes, f"'{data.name}'")
        _check_images(data, split)
        _check_masks(data, split)
    _check_normalisation(data)
    return data


def _check_normalisation(data: Data) -> None:
    """Mean and deviation are given together, a number for each channel."""
    channels = data.input_size[0]
    if (data.mean or data.std) and not len(data.mean) == len(data.std) == channels:
        raise DataError(
            f"'{data.name}' has {len(data.mean)} means and {len(data.std)} standard deviations for images of {channels} "
            "channels. Give one number for each channel in both, or leave both empty to take them from the training images."
        )
    if any(value <= 0 for value in data.std):
        raise DataError(f"'{data.name}' has the standard deviations {list(data.std)}, but each must be above 0.")


def _check_images(data: Data, split: Split) -> None:
    count = len(split.items) if split.images is None else len(split.images)
    if count != len(split):
        raise DataError(f"'{data.name}' has {count} images and {len(split)} labels in one split: give one label an image.")
    images = split.images
    if images is not None and (images.dtype != torch.uint8 or tuple(images.shape[1:]) != tuple(data.input_size)):
        raise DataError(
            f"'{data.name}' has images {images.dtype} {list(images.shape)}, but uint8 [N, C, H, W] is needed, with "
            f"[C, H, W] = {list(data.input_size)}, its input_size."
        )


def _check_masks(data: Data, split: Split) -> None:
    """Masks in memory must have the size of the images."""
    found, size = tuple(split.labels.shape[1:]), tuple(data.input_size[1:])
    if split.labels.ndim == 3 and (split.labels.dtype != torch.uint8 or found != size):
        raise DataError(
            f"'{data.name}' has masks {split.labels.dtype} {list(split.labels.shape)}, but uint8 [N, H, W] is needed, with "
            f"[H, W] = {list(size)}, the size of its images."
        )


def _finished(data: Data, hold: bool) -> Data:
    """The same data, decoded if it fits in memory, with normalisation and fingerprint."""
    splits, (height, width) = _splits(data), data.input_size[1:]
    # the same images whether or not they are held in memory, so that both normalise alike
    some = None if data.train.images is not None else _evenly_spaced(len(data.train), height * width)
    channels = data.input_size[0] + data.train.has_masks
    size = sum(map(len, splits.values())) * channels * height * width
    if hold and data.train.images is None and size <= decoding.MEMORY_LIMIT:
        held: dict[str, Any] = {name: _in_memory(split, data) for name, split in splits.items()}
        data = replace(data, **held)
    if not data.mean:
        mean, std = _statistics(_chunks(data.train, some, width, height))
        data = replace(data, mean=mean, std=std)
    return replace(data, fingerprint=data.fingerprint or _fingerprint(data))


def _splits(data: Data) -> dict[str, Split]:
    """The splits that the data have, by the names of their fields."""
    validation = {} if data.validation is None else {"validation": data.validation}
    return {"train": data.train, "test": data.test, **validation}


def _evenly_spaced(count: int, pixels: int) -> Tensor:
    """Positions of the images, of ``count`` with so many pixels each, that mean and deviation are taken from; int64 [M]."""
    looked_at = min(count, max(1, STATISTICS_PIXELS // pixels))
    return torch.arange(looked_at) * count // looked_at


def _chunks(split: Split, places: Tensor | None, width: int, height: int, size: int = 256) -> Iterator[Tensor]:
    """The images of a split at some positions, int64 [M], or all: uint8 [B, C, H, W], a few at a time."""
    for chunk in torch.split(torch.arange(len(split)) if places is None else places, size):
        if split.images is not None:
            yield split.images[chunk]
        else:
            yield decoding.decode(split.items, width, height, split.labels, chunk.tolist(), split.fitting)


def _in_memory(split: Split, data: Data) -> Split:
    if split.images is not None:
        return split
    height, width = data.input_size[1:]
    if split.has_masks:
        images, masks = decoding.decode_with_masks(split.items, width, height, data.num_classes, fitting=split.fitting)
        return replace(split, images=images, labels=masks, items=())
    images = decoding.decode(split.items, width, height, split.labels, fitting=split.fitting)
    return replace(split, images=images, items=())


def statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of uint8 [N, C, H, W], on the scale 0 to 1, to four digits."""
    return _statistics(torch.split(images, 256))


def _statistics(chunks: Iterable[Tensor]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The same of images that come a few at a time: how often each value occurs is counted exactly."""
    counts = torch.stack([_counts(images) for images in chunks]).sum(0)
    values = torch.arange(256, dtype=torch.float64) / 255
    share = counts.double() / counts.sum(1, keepdim=True)
    mean = (share * values).sum(1)
    std = ((share * values**2).sum(1) - mean**2).clamp(min=1e-12).sqrt()
    return tuple(round(float(m), 4) for m in mean), tuple(max(round(float(s), 4), 1e-4) for s in std)


def _counts(images: Tensor) -> Tensor:
    """How often each value occurs in each channel of uint8 [B, C, H, W]; int64 [C, 256]."""
    return torch.stack([torch.bincount(channel.flatten().long(), minlength=256) for channel in images.unbind(1)])


def _fingerprint(data: Data) -> str:
    digest = hashlib.sha256(repr((data.classes, data.input_size, len(data.train), len(data.test))).encode())
    for split in _splits(data).values():
        digest.update(split.labels.numpy().tobytes())
        for tensor in _sample(split, data):
            digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()[:16]


def _sample(split: Split, data: Data, count: int = 32) -> list[Tensor]:
    """All images if they are in memory, or some that are decoded for it, with their masks if they come with some."""
    if split.images is not None:
        return [split.images]
    places = torch.linspace(0, len(split) - 1, min(count, len(split))).long().tolist()
    size, fitting = (data.input_size[2], data.input_size[1]), split.fitting
    if split.has_masks:
        return list(decoding.decode_with_masks(split.items, *size, data.num_classes, places, fitting))
    return [torch.stack([decoding.pixels(split.items, place, *size, fitting=fitting) for place in places])]
