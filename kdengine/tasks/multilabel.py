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
from kdengine.errors import DataError, ModelError
from kdengine.storage.chance import Chance
from kdengine.storage.scores import Measure, Scoring
from kdengine.tasks.shared import MeanLoss, Weighted, class_weights, mixing
from kdengine.tasks.task import DataInfo

__all__ = ["Multilabel"]

THRESHOLD = 0.5
"""Probability from which a label counts as given."""


class Multilabel(Weighted):
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
        super().__init__(label_smoothing, weights)
        self.num_labels = num_labels

    @classmethod
    def of(cls, data: DataInfo, train: TrainSettings) -> Self:
        """Take the labels from the data, and label smoothing and weights from the settings.

        Raises:
            SettingsError: there are weights for another number of labels, or the labels of the images are unknown.
        """

        def balanced(targets: Tensor) -> Tensor:
            """How many more images lack the label than have it."""
            positive = targets.double().sum(0)
            return (len(targets) - positive) / positive.clamp(min=1)

        return cls(data.num_classes, train.label_smoothing, class_weights(data, train, balanced, "label", "labels"))

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
        return F.binary_cross_entropy_with_logits(output, smooth, pos_weight=self.weights_beside(output))

    def mixing(self, train: TrainSettings) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None:
        """Mixup and CutMix; targets become shares of labels [B, K]."""
        return mixing(train, self.num_labels)

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


class BinaryCrossEntropy(MeanLoss):
    """Mean binary cross-entropy over images and labels."""

    def summed(self, output: Tensor, target: Tensor) -> Tensor:
        """The sum over the images of a batch, each the mean over its labels: logits [B, K] and targets [B, K]."""
        losses = F.binary_cross_entropy_with_logits(output, target.to(output.dtype), reduction="none")
        return losses.mean(1).sum()
