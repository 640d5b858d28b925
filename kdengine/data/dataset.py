"""A data set as kdengine sees it: splits of images and labels, and everything needed to make batches of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from kdengine.config.settings import TrainSettings
from kdengine.data.augmentation import Augmentation
from kdengine.data.batches import Batches, ImageBatches, MemoryBatches
from kdengine.data.decoding import WHOLE, Fitting
from kdengine.data.worker_batches import HeldBatches, StreamBatches
from kdengine.errors import DataError, SettingsError

__all__ = ["BLANK", "Data", "Split", "blank"]

SPLIT_SEED = 1234
"""Decides which images are held out: the same in every run, so that no teacher trains on its student's validation images."""
EVALUATION_BATCH = 500
"""Smallest batch of a pass without gradients."""


@dataclass(frozen=True)
class Split:
    """Images and labels of one split: decoded in memory, or read as needed.

    Attributes:
        labels: targets of the images: class indices int64 [N]; for multi-label data 0 and 1, float32 [N, K]; for segmentation
            masks of class indices, 255 where ignored, uint8 [N, H, W]; zeros, int64 [N], where masks come with the items or
            there are no labels.
        images: uint8 [N, C, H, W], or None for a split that workers read.
        items: sequence of N items (PIL image, label), or (PIL image, PIL mask), if ``images`` is None.
        fitting: how items are brought to the size of the data.
        masked: whether the items have masks.
    """

    labels: Tensor
    images: Tensor | None = None
    items: Sequence[Any] = ()
    fitting: Fitting = WHOLE
    masked: bool = False

    @property
    def has_masks(self) -> bool:
        """Whether the targets are masks, held or read with their images."""
        return self.labels.ndim == 3 or (self.masked and self.images is None)

    @property
    def targets(self) -> Tensor | None:
        """The targets, [N, ...]; None if they are masks that are read as needed."""
        return None if self.has_masks and self.images is None else self.labels

    @property
    def sample_targets(self) -> Tensor:
        """The targets, [N, ...], to check their form; a mask uint8 [1, 1, 1] for masks that are read as needed."""
        return torch.zeros(1, 1, 1, dtype=torch.uint8) if self.targets is None else self.labels

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int | None) -> Split:
        """The first ``count`` images, or all."""
        if count is None:
            return self
        images = None if self.images is None else self.images[:count]
        items = _Head(self.items, count) if images is None else ()
        return replace(self, labels=self.labels[:count], images=images, items=items)

    def at(self, places: Tensor) -> Split:
        """The images at some positions, int64 [M]."""
        images = None if self.images is None else self.images[places]
        items = _Picked(self.items, places.tolist()) if images is None else ()
        return replace(self, labels=self.labels[places], images=images, items=items)


@dataclass(frozen=True)
class Data:
    """A data set, ready for training.

    Attributes:
        name: the spec that it was loaded from.
        classes: class names, in the order of the class indices; empty for data without labels.
        input_size: shape of one image, (C, H, W).
        mean: per channel, on the scale 0 to 1; empty to take it from the training images.
        std: per channel, on the scale 0 to 1; empty likewise.
        augment: the augmentation that suits the data.
        train: the split to train on.
        test: the split to measure accuracy on.
        fingerprint: hash of the contents; of the labels and some images, if those are read as needed. Equal for equal data.
        validation: the split to choose the best epoch by, if that is not ``test``.
        task: name of the task that the data is for.
    """

    name: str
    classes: tuple[str, ...]
    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: str
    train: Split
    test: Split
    _: KW_ONLY
    fingerprint: str = ""
    validation: Split | None = None
    task: str = "classification"

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return len(self.classes)

    @property
    def targets(self) -> Tensor | None:
        """The targets of all training images, [N, ...]; None if they are masks that are read as needed."""
        return self.train.targets

    def holding_out(self, share: float) -> Data:
        """The same data with a share of its training images held out for validation, unless it has a validation split.

        Raises:
            DataError: no image would be held out, or none be left to train on.
        """
        if self.validation is not None:
            return self
        total = len(self.train)
        count = round(share * total)
        if not 0 < count < total:
            raise DataError(
                f"train.validation = {share} holds out {count} of {total} training images, but at least 1 must be held out and "
                "1 be left to train on. Choose another share, or 0 to hold out none."
            )
        order = torch.randperm(total, generator=torch.Generator().manual_seed(SPLIT_SEED))
        held, kept = order[:count].sort().values, order[count:].sort().values
        return replace(self, train=self.train.at(kept), validation=self.train.at(held))

    def train_batches(self, settings: TrainSettings, seed: int, device: torch.device) -> ImageBatches:
        """Shuffled and augmented batches of the training split.

        Raises:
            SettingsError: it has masks, which the augmentation cannot change with their images.
        """
        augmentation = Augmentation.of(settings, self.augment, self.mean)
        if augmentation.policy and self.train.has_masks:
            raise SettingsError(
                f"train.augment = '{settings.augment}': {augmentation.policy} changes images without their masks, which "
                f"'{self.name}' has. Allowed are auto, none, crop, crop-flip and resized-crop, with train.color_jitter and "
                "train.erase."
            )
        return self._batches(self.train, settings, device, seed, augmentation)

    def second_view(self, settings: TrainSettings) -> Augmentation:
        """What happens to the second view of each training image, if methods need one."""
        return Augmentation.of_second_view(settings, self.augment, self.mean)

    def test_batches(self, settings: TrainSettings, device: torch.device) -> Batches:
        """Batches of the test split in their own order, not augmented."""
        return self._measuring(self.test, settings, device)

    def validation_batches(self, settings: TrainSettings, device: torch.device) -> Batches | None:
        """Batches of the validation split, if there is one, in their own order, not augmented."""
        return None if self.validation is None else self._measuring(self.validation, settings, device)

    def describe(self) -> dict[str, Any]:
        """The facts that a run folder keeps about the data; the class names tell later uses whether theirs are the same."""
        return {
            "name": self.name,
            **({} if self.task == "classification" else {"task": self.task}),
            "num_classes": self.num_classes,
            "classes": list(self.classes),
            "train_images": len(self.train),
            **({} if self.validation is None else {"validation_images": len(self.validation)}),
            "test_images": len(self.test),
            "input_size": list(self.input_size),
            "mean": list(self.mean),
            "std": list(self.std),
            "fingerprint": self.fingerprint,
            **({} if self.test.fitting == WHOLE else {"fitting": vars(self.test.fitting)}),
        }

    def _measuring(self, split: Split, settings: TrainSettings, device: torch.device) -> Batches:
        if not split.has_masks:  # what labels pixels has outputs as large as its images, times the classes
            settings = settings.model_copy(update={"batch_size": max(settings.batch_size, EVALUATION_BATCH)})
        return self._batches(split, settings, device, None, Augmentation())

    def _batches(
        self, split: Split, settings: TrainSettings, device: torch.device, seed: int | None, augmentation: Augmentation
    ) -> ImageBatches:
        shared: dict[str, Any] = {
            "mean": self.mean,
            "std": self.std,
            "batch_size": settings.batch_size,
            "seed": seed,
            "augmentation": augmentation,
            "device": device,
            "masked": split.has_masks,
        }
        if split.images is None:
            size = self.input_size[1:]
            own: dict[str, Any] = {"size": size, "fitting": split.fitting, "workers": settings.workers}
            own["classes"] = self.num_classes
            return StreamBatches(split.items, split.labels, **own, **shared)
        if augmentation.is_slow and settings.workers:
            return HeldBatches(split.images, split.labels, workers=settings.workers, **shared)
        # images go to the accelerator once; there they are cheap to augment
        return MemoryBatches(split.images.to(device), split.labels.to(device), **shared)


class _Picked(Sequence[Any]):
    """Some items of a sequence."""

    def __init__(self, items: Sequence[Any], places: Sequence[int]) -> None:
        self.items, self.places = items, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: Any) -> Any:
        return self.items[self.places[index]]


class _Head(Sequence[Any]):
    """The first items of a sequence."""

    def __init__(self, items: Sequence[Any], count: int) -> None:
        self.items, self.length = items, min(count, len(items))

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: Any) -> Any:
        return self.items[index]


BLANK = "blank"
"""Name of data on which nothing is trained."""


def blank(input_size: tuple[int, int, int], num_classes: int) -> Data:
    """A data set of one grey image, to try networks on images of a given size."""
    grey = Split(torch.zeros(1, dtype=torch.int64), torch.full((1, *input_size), 128, dtype=torch.uint8))
    channels, classes = input_size[0], tuple(map(str, range(num_classes)))
    return Data(BLANK, classes, input_size, (0.5,) * channels, (0.25,) * channels, "none", grey, grey, fingerprint=BLANK)
