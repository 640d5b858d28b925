"""Where a run takes its batches from: a data set that kdengine loads, or the user's own loaders."""

from __future__ import annotations

from collections.abc import Iterable, Sized
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from kdengine.config.settings import LOADERS, Settings
from kdengine.data.audit import AuditedBatches
from kdengine.data.batches import Batches, ShardedBatches
from kdengine.data.dataset import Data
from kdengine.data.user_loaders import UserBatches, check_finite
from kdengine.errors import DataError
from kdengine.networks.inputs import ImageSpec
from kdengine.taps import Anatomy

__all__ = ["DataModule"]


@dataclass(frozen=True)
class DataModule:
    """Batches for training and testing, and the facts about the data.

    Attributes:
        train: shuffled batches.
        test: batches to measure accuracy on.
        input_size: shape of one image, (C, H, W).
        num_classes: number of classes K.
        num_samples: images in the training set.
        dataset: the data set, if kdengine loaded it.
        validation: batches to choose the best epoch by, if those are not ``test``.
    """

    train: Batches
    test: Batches
    input_size: tuple[int, int, int]
    num_classes: int
    num_samples: int
    dataset: Data | None = None
    validation: Batches | None = None

    @classmethod
    def of_data(cls, data: Data, settings: Settings, device: torch.device) -> DataModule:
        """Batches of a data set under the settings of a run."""
        if settings.train.validation:
            data = data.holding_out(settings.train.validation)
        train = data.train_batches(settings.train, settings.seed, device)
        return cls(
            AuditedBatches(train, len(data.train), settings.train.batch_size),
            data.test_batches(settings.train, device),
            data.input_size,
            data.num_classes,
            len(data.train),
            data,
            data.validation_batches(settings.train, device),
        )

    @classmethod
    def of_loaders(
        cls,
        train: Iterable[Any],
        test: Iterable[Any],
        device: torch.device,
        modules: Iterable[tuple[nn.Module, tuple[int, int] | None]] = (),
    ) -> DataModule:
        """Batches of the user's loaders; sizes and classes are taken from their data set and the test batches.

        Args:
            train: the loader to train on.
            test: the loader to measure accuracy on.
            device: where batches go.
            modules: networks given as modules, which may have classes that no test image shows; each with the rows and
                columns that it receives, if those are not the data's.

        Raises:
            DataError: a loader is empty, or gives something other than images and labels, or labels that are not classes.
        """
        train_batches = UserBatches(train, device, "train_loader")
        test_batches = UserBatches(test, device, "val_loader")
        len(train_batches)  # without a length no schedule can be laid out
        shape, classes = None, 0
        for batch in test_batches.epoch(0):
            shape = tuple(batch.x.shape[1:])
            classes = max(classes, int(batch.y.max()) + 1)
            check_finite(batch.x, test_batches.name)
        if shape is None or len(shape) != 3:
            raise DataError(f"val_loader must give images [B, C, H, W]; got {'nothing' if shape is None else list(shape)}.")
        dataset = getattr(train, "dataset", None)
        received = [(module, (shape[0], *(size or shape[1:]))) for module, size in modules]
        outputs = [Anatomy.of(module, size).probe.logits.shape[-1] for module, size in received]
        classes = max([classes, len(getattr(dataset, "classes", ())), *outputs])
        train_batches, test_batches = (replace(batches, classes=classes) for batches in (train_batches, test_batches))
        samples = _count(train_batches, dataset)
        return cls(replace(train_batches, samples=samples), test_batches, shape, classes, samples)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; empty for loaders of the user's own."""
        return () if self.dataset is None else self.dataset.classes

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

    def shared(self, rank: int, processes: int) -> DataModule:
        """The same data, of which each process trains on its share; the user's own loaders do their own sharding."""
        if processes == 1 or self.dataset is None:
            return self
        return replace(self, train=ShardedBatches(self.train, rank, processes))

    def describe(self) -> dict[str, Any]:
        """The facts that a run folder keeps about the data."""
        if self.dataset is not None:
            return self.dataset.describe()
        return {"name": LOADERS, "num_classes": self.num_classes, "input_size": list(self.input_size)}


def _count(batches: UserBatches, dataset: Any) -> int:
    """Images in the training set: the length of its data set, or the number that one pass gives."""
    if isinstance(dataset, Sized):
        return len(dataset)
    return sum(len(batch.y) for batch in batches.epoch(0))
