"""Where a run takes its batches from: a data set that kdengine loads, or the user's own loaders."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sized
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from kdengine.config.settings import LOADERS, Settings, TrainSettings
from kdengine.data.audit import AuditedBatches
from kdengine.data.augmentation import Augmentation
from kdengine.data.batches import NONE, Batches, ImageBatches, MemoryBatches, ShardedBatches
from kdengine.data.dataset import Data
from kdengine.data.mixing import MixedBatches
from kdengine.data.user_datasets import DatasetLoader
from kdengine.data.user_loaders import UserBatches, check_finite
from kdengine.data.worker_batches import HeldBatches
from kdengine.errors import DataError, counted
from kdengine.networks.inputs import ImageSpec
from kdengine.seeds import seeded
from kdengine.taps import Anatomy

__all__ = ["DataModule", "left_out"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataModule:
    """Batches for training and testing, and the facts about the data.

    Attributes:
        train: shuffled batches.
        test: batches to measure accuracy on; None for a loader of the user's own without another one for that.
        input_size: shape of one image, (C, H, W).
        num_classes: number of classes K.
        num_samples: images in the training set.
        dataset: the data set, if kdengine loaded it.
        validation: batches to choose the best epoch by, if those are not ``test``.
        second_view: what happens to the second view of each training image, if a method needs one.
        workers: processes that make both views ahead where the second is slow to make; with 0, this process makes them.
    """

    train: Batches
    test: Batches | None
    input_size: tuple[int, int, int]
    num_classes: int
    num_samples: int
    dataset: Data | None = None
    validation: Batches | None = None
    second_view: Augmentation = NONE
    workers: int = 0

    @classmethod
    def of_data(cls, data: Data, settings: Settings, device: torch.device, processes: int = 1) -> DataModule:
        """Batches of a data set under the settings of a run, for so many processes.

        Raises:
            DataError: no image would be left to train on.
        """
        if settings.train.validation and data.validation is not None:
            own = len(data.validation)
            log.warning("train.validation holds out nothing: '%s' has a validation split of its own, %d images", data.name, own)
        elif settings.train.validation:
            data = data.holding_out(settings.train.validation)
        train = data.train_batches(settings.train, settings.seed, device)
        dropped = left_out(len(data.train), settings.train, processes)
        return cls(
            AuditedBatches(replace(train, drop_last=dropped > 0), len(data.train), settings.train.batch_size, dropped),
            data.test_batches(settings.train, device),
            data.input_size,
            data.num_classes,
            len(data.train),
            data,
            data.validation_batches(settings.train, device),
            data.second_view(settings.train),
            settings.train.workers,
        )

    @classmethod
    def of_loaders(
        cls,
        train: Iterable[Any],
        test: Iterable[Any] | None,
        device: torch.device,
        modules: Iterable[tuple[nn.Module, tuple[int, int] | None]] = (),
    ) -> DataModule:
        """Batches of the user's loaders; sizes and classes are taken from their data set and the test batches.

        Without test batches, the labels of the training batches tell the classes, unless the data set or a module does.

        Args:
            train: the loader to train on.
            test: the loader to measure accuracy on, if any.
            device: where batches go.
            modules: networks given as modules, which may have classes that no test image shows; each with the rows and
                columns that it receives, if those are not the data's.

        Raises:
            DataError: a loader is empty, or gives something other than images and labels, or labels that are not classes.
        """
        train_batches = UserBatches(train, device, "train_loader")
        len(train_batches)  # without a length no schedule can be laid out
        dataset, modules = getattr(train, "dataset", None), list(modules)
        named = len(getattr(dataset, "classes", ()))
        test_batches = None if test is None else UserBatches(test, device, "val_loader")
        if test_batches is None:
            shape, classes = _survey(train_batches, whole=not named and not modules)
        else:
            shape, classes = _survey(test_batches, whole=True)
        received = [(module, (shape[0], *(size or shape[1:]))) for module, size in modules]
        outputs = [Anatomy.of(module, size).probe.num_outputs for module, size in received]
        classes = max([classes, named, *outputs])
        train_batches = replace(train_batches, classes=classes)
        test_batches = None if test_batches is None else replace(test_batches, classes=classes)
        samples = _count(train_batches, dataset)
        return cls(replace(train_batches, samples=samples), test_batches, shape, classes, samples)

    def suited(
        self, settings: Settings, weights: Tensor | None, mix: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None
    ) -> DataModule:
        """The same data, as the task of a run wants to be trained on it.

        Args:
            settings: of the run.
            weights: how often to draw each training image, relative to the others, [N]; None to show each once.
            mix: (images [B, C, H, W], targets) -> the same, mixed; None to leave them as they are.
        """
        train = self.train
        if weights is not None and isinstance(train, AuditedBatches) and isinstance(train.batches, ImageBatches):
            train = replace(train.batches, weights=weights)  # not audited: images come more than once, or never
        if mix is not None:
            train = MixedBatches(train, mix, settings.seed)
        return replace(self, train=train)

    def training(self, views: int) -> Batches:
        """The training batches, with so many views of each image, 1 or 2."""
        return self.train if views == 1 else self._in_two_views

    @cached_property
    def _in_two_views(self) -> Batches:
        return _with_second_view(self.train, self.second_view, self.workers)

    def lacks(self, need: str) -> str | None:
        """What is missing, in words that follow "X needs", if the data cannot give what a method needs."""
        if need == "views:2" and not isinstance(_innermost(self.train), ImageBatches):
            return (
                "two views of each image, but loaders of your own, and data sets that give tensors, give one. Let the data set "
                "give PIL images, which kdengine augments, or name data such as imagefolder:PATH."
            )
        if need == "index" and _is_own_order(self.train) and not _tells_index(self.train):
            return (
                "each image's position in the training set, but train_loader gives only (images, labels). Let its data set "
                "return (image, label, index), where index is the int that __getitem__ was called with."
            )
        return None

    @property
    def targets(self) -> Tensor | None:
        """The targets of all training images, [N, ...]; None for loaders of the user's own and for masks read as needed."""
        return None if self.dataset is None else self.dataset.targets

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; empty for loaders of the user's own."""
        return () if self.dataset is None else self.dataset.classes

    @property
    def test_targets(self) -> torch.Tensor | None:
        """The targets of all test images, likewise."""
        return None if self.dataset is None else self.dataset.test.targets

    @property
    def task(self) -> str:
        """Name of the task that the data is for."""
        return "classification" if self.dataset is None else self.dataset.task

    @property
    def images(self) -> ImageSpec:
        """Size and normalisation of the images in its batches; how the user's loaders normalise is not known."""
        if self.dataset is None:
            return ImageSpec(self.input_size)
        return ImageSpec(self.input_size, self.dataset.mean, self.dataset.std)

    @property
    def own_loaders(self) -> bool:
        """Whether it was made from loaders or data sets of the user's own, which no spec names."""
        return self.dataset is None or self.dataset.name == LOADERS

    def shared(self, rank: int, processes: int) -> DataModule:
        """The same data, of which each process trains on its share; the user's own loaders do their own sharding."""
        if processes == 1 or _is_own_order(self.train):
            return self
        return replace(self, train=ShardedBatches(self.train, rank, processes))

    def with_order(self, seed: int) -> DataModule:
        """The same data in the order of another seed, as far as it is not that of the user's own loaders."""
        return replace(self, train=_ordered(self.train, seed))

    def describe(self) -> dict[str, Any]:
        """The facts that a run folder keeps about the data."""
        if self.dataset is not None:
            return self.dataset.describe()
        return {"name": LOADERS, "num_classes": self.num_classes, "input_size": list(self.input_size)}


def left_out(samples: int, settings: TrainSettings, processes: int) -> int:
    """How many images of each epoch to leave out: those of a last batch that is too small.

    Args:
        samples: training images.
        settings: with ``batch_size`` and ``drop_last``.
        processes: that share each batch.

    Raises:
        DataError: that is all of them.
    """
    whole, rest = divmod(samples, settings.batch_size)
    if settings.drop_last and not whole:
        raise DataError(
            f"With train.drop_last no image is left to train on: there are {samples}, fewer than train.batch_size = "
            f"{settings.batch_size}. Lower train.batch_size."
        )
    if settings.drop_last is None and whole and 0 < rest < 2 * processes:
        log.info(
            "Each epoch leaves out %s: too few for a batch whose statistics mean something. train.drop_last=false keeps them",
            counted(rest, "image"),
        )
        return rest
    return rest if settings.drop_last else 0


def _survey(batches: UserBatches, whole: bool) -> tuple[tuple[int, int, int], int]:
    """The shape of the images, and the number of classes that the labels show; of the first batch alone unless ``whole``."""
    shape: tuple[int, ...] = ()
    classes = 0
    for batch in batches.epoch(0):
        shape = tuple(batch.x.shape[1:])
        classes = max(classes, int(batch.y.max()) + 1)
        check_finite(batch.x, batches.name)
        if not whole:
            break
    if len(shape) != 3:
        raise DataError(f"{batches.name} must give images [B, C, H, W]; got {['B', *shape]}.")
    return (shape[0], shape[1], shape[2]), classes


def _ordered(batches: Batches, seed: int) -> Batches:
    """The same batches in the order of another seed, if kdengine made them of a torch data set."""
    if isinstance(batches, MixedBatches):
        return replace(batches, batches=_ordered(batches.batches, seed), seed=seed)
    if isinstance(batches, ShardedBatches):
        return replace(batches, batches=_ordered(batches.batches, seed))
    if isinstance(batches, UserBatches) and isinstance(batches.loader, DatasetLoader):
        return replace(batches, loader=replace(batches.loader, seed=seed))
    return batches


def _is_own_order(batches: Batches) -> bool:
    """Whether a loader of the user's own decides which images come in which batch."""
    inner = _innermost(batches)
    return isinstance(inner, UserBatches) and not isinstance(inner.loader, DatasetLoader)


def _with_second_view(batches: Batches, second: Augmentation, workers: int) -> Batches:
    """The same batches, with a second view of each image; where that is slow to make, as many workers make both ahead."""
    inner = getattr(batches, "batches", None)
    if inner is not None:
        return replace(batches, batches=_with_second_view(inner, second, workers))  # type: ignore[type-var]
    if isinstance(batches, MemoryBatches) and second.is_slow and workers:
        shared = {field.name: getattr(batches, field.name) for field in fields(batches)}
        on_cpu = {"images": batches.images.cpu(), "labels": batches.labels.cpu()}  # workers have no accelerator
        batches = HeldBatches(**{**shared, **on_cpu}, workers=workers)
    return replace(batches, second=second)  # type: ignore[type-var]


def _innermost(batches: Batches) -> Batches:
    """The batches that all others wrap."""
    inner = getattr(batches, "batches", None)
    return batches if inner is None else _innermost(inner)


def _tells_index(batches: Batches) -> bool:
    """Whether a loader of the user's own says which images it gives; reads one batch."""
    with seeded(0):
        return next(iter(batches.epoch(0))).index is not None


def _count(batches: UserBatches, dataset: Any) -> int:
    """Images in the training set: the length of its data set, or the number that one pass gives."""
    if isinstance(dataset, Sized):
        return len(dataset)
    return sum(len(batch.y) for batch in batches.epoch(0))
