"""Multi-label classification: any number of labels for each image."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import MultilabelAveragePrecision, MultilabelF1Score

from kdengine.config.settings import TrainSettings
from kdengine.errors import DataError, ModelError, SettingsError
from kdengine.storage.chance import Chance
from kdengine.storage.scores import Measure, Scoring
from kdengine.tasks.classification import Counting, quotient
from kdengine.tasks.task import DataInfo, Task

__all__ = ["Multilabel"]

THRESHOLD = 0.5
"""Probability from which a label counts as given."""


class Multilabel(Task):
    """Any number of K labels for each image, independent of one another: targets are [B, K], 0 or 1, or between if mixed.

    Args:
        num_labels: number of labels K.
        label_smoothing: share by which targets move towards one half.
        weights: weight of the positive images of each label in the loss, [K]; None for 1.
    """

    name = "multilabel"
    outputs = "labels"
    scoring: ClassVar[Scoring] = Scoring(
        "multilabel", (Measure("map", "mAP", "%"), Measure("f1", "F1", "%"), Measure("loss", "loss", higher_is_better=False))
    )

    def __init__(self, num_labels: int, label_smoothing: float = 0.0, weights: Tensor | None = None) -> None:
        self.num_labels = num_labels
        self.label_smoothing = label_smoothing
        self.weights = weights

    @classmethod
    def of(cls, data: DataInfo, train: TrainSettings) -> Self:
        """Take the labels from the data, and label smoothing and weights from the settings.

        Raises:
            SettingsError: there are weights for another number of labels, or the labels of the images are unknown.
        """
        return cls(data.num_classes, train.label_smoothing, _weights(data, train))

    @classmethod
    def check_targets(cls, targets: Tensor, num_classes: int, owner: str) -> None:
        """Require [N, K] of 0 and 1.

        Raises:
            DataError: they are something else.
        """
        if targets.ndim != 2 or targets.shape[1] != num_classes:
            raise DataError(
                f"{owner} has targets {list(targets.shape)}, but multi-label data needs [N, {num_classes}]: for each image, 1 "
                "for each label that it has and 0 for the others."
            )
        if not ((targets == 0) | (targets == 1)).all():
            raise DataError(f"{owner} has targets other than 0 and 1. Give 1 for each label that an image has, else 0.")

    @property
    def num_outputs(self) -> int:
        """One logit per label."""
        return self.num_labels

    def check(self, output: Tensor, target: Tensor | None = None, owner: str = "The network") -> None:
        """Require logits [B, K], and targets [B, K].

        Raises:
            ModelError: the output is not [B, K].
            DataError: the targets are not.
        """
        wanted = (len(output), self.num_labels)
        if tuple(output.shape) != wanted:
            raise ModelError(
                f"'{owner}' returns {list(output.shape)} for a batch of {len(output)}, but the data has {self.num_labels} "
                f"labels: {list(wanted)} is needed. Give it one output per label."
            )
        if target is not None and tuple(target.shape) != wanted:
            raise DataError(f"The targets are {list(target.shape)}, but {list(wanted)} are needed: 0 or 1 for each label.")

    def join(self, outputs: Sequence[Tensor]) -> Tensor:
        """The log-odds of the mean of the probabilities, [B, K]."""
        stacked = torch.stack(list(outputs))
        yes, no = (F.logsigmoid(sign * stacked).logsumexp(0) for sign in (1, -1))
        return yes - no

    def loss(self, output: Tensor, target: Tensor | None) -> Tensor | None:
        """Binary cross-entropy, averaged over images and labels."""
        if target is None:
            return None
        smooth = target.to(output.dtype) * (1 - self.label_smoothing) + self.label_smoothing / 2
        weights = None if self.weights is None else self.weights.to(output.device)
        return F.binary_cross_entropy_with_logits(output, smooth, pos_weight=weights)

    def mixing(self, train: TrainSettings) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None:
        """Mixup and CutMix, of which each batch draws one if both are asked for; targets become shares of labels."""
        if not (train.mixup or train.cutmix):
            return None
        from torchvision.transforms import v2

        kinds = ((v2.MixUp, train.mixup), (v2.CutMix, train.cutmix))
        mixes = [kind(alpha=alpha, num_classes=self.num_labels) for kind, alpha in kinds if alpha]
        mix: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = mixes[0] if len(mixes) == 1 else v2.RandomChoice(mixes)
        return mix

    def metrics(self) -> MetricCollection:
        """Mean over the labels of the average precision and of F1, in percent, and the mean binary cross-entropy."""
        return MetricCollection(
            {"map": MeanAveragePrecision(self.num_labels), "f1": F1(self.num_labels), "loss": BinaryCrossEntropy()},
            compute_groups=False,
        )

    def training_metrics(self) -> MetricCollection:
        """F1, which unlike the average precision needs no more than counts."""
        return MetricCollection({"f1": F1(self.num_labels)}, compute_groups=False)

    def predictions(self, output: Tensor, names: Sequence[str] = (), limit: int = 1) -> list[list[dict[str, Any]]]:
        """The labels of each image with a probability of at least one half, but at least ``limit`` of them."""
        found = output.double().sigmoid().sort(dim=1, descending=True)
        answers = []
        for indices, values in zip(found.indices.tolist(), found.values.tolist(), strict=True):
            count = max(min(limit, self.num_labels), sum(value >= THRESHOLD for value in values))
            ranked = zip(indices[:count], values[:count], strict=True)
            answers.append(
                [{"class": names[at] if names else str(at), "index": at, "probability": value} for at, value in ranked]
            )
        return answers

    def chance(self, targets: Tensor | None = None) -> Chance | None:
        """The average precision of a random order, which is the share of images with a label; the entropy of these shares."""
        if targets is None or not len(targets):
            return Chance(50.0, math.log(2))
        shares = targets.double().mean(0)
        entropy = -(torch.xlogy(shares, shares) + torch.xlogy(1 - shares, 1 - shares)).mean()
        return Chance(100 * float(shares.mean()), float(entropy))


def _weights(data: DataInfo, train: TrainSettings) -> Tensor | None:
    """The weight of the positive images of each label, [K]; 'balanced' is how many more images lack the label than have it."""
    if train.class_weights == "none":
        return None
    if train.class_weights == "balanced":
        if data.targets is None:
            raise SettingsError(
                "train.class_weights = 'balanced' needs data that kdengine loads, whose labels it can count. Give a number for "
                "each label instead."
            )
        positive = data.targets.double().sum(0)
        return ((len(data.targets) - positive) / positive.clamp(min=1)).float()
    if len(train.class_weights) != data.num_classes:
        raise SettingsError(
            f"train.class_weights has {len(train.class_weights)} numbers, but the data has {data.num_classes} labels. Give one "
            "for each label, in their order."
        )
    return torch.tensor(train.class_weights)


class MeanAveragePrecision(MultilabelAveragePrecision):
    """Average precision of each label over all images, averaged over the labels that some image has; in percent."""

    def __init__(self, num_labels: int) -> None:
        super().__init__(num_labels, average="macro", thresholds=None, validate_args=False)

    def update(self, output: Tensor, target: Tensor | None) -> None:
        """Add a batch: logits [B, K] and targets [B, K]; nothing without targets."""
        if target is not None:
            super().update(output.sigmoid(), (target >= THRESHOLD).long())

    def compute(self) -> Tensor:  # type: ignore[override]
        """The mean in percent, []."""
        mean: Tensor = super().compute()
        return 100 * mean


class F1(MultilabelF1Score):
    """F1 of each label at a probability of one half, averaged over the labels; in percent."""

    def __init__(self, num_labels: int) -> None:
        super().__init__(num_labels, threshold=THRESHOLD, average="macro", validate_args=False)

    def update(self, output: Tensor, target: Tensor | None) -> None:
        """Add a batch: logits [B, K] and targets [B, K]; nothing without targets."""
        if target is not None:
            super().update(output.sigmoid(), (target >= THRESHOLD).long())

    def compute(self) -> Tensor:
        """The mean in percent, []."""
        return 100 * super().compute()


class BinaryCrossEntropy(Counting):
    """Mean binary cross-entropy over images and labels."""

    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, output: Tensor, target: Tensor | None) -> None:
        """Add a batch: logits [B, K] and targets [B, K]; nothing without targets."""
        if target is None:
            return
        losses = F.binary_cross_entropy_with_logits(output, target.to(output.dtype), reduction="none").mean(1)
        self.total += losses.sum()
        self.count += len(output)

    def compute(self) -> Tensor:
        """The mean, []."""
        return quotient(self.total, self.count)
