"""Image classification with one class per image."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from kdengine.config.settings import TrainSettings
from kdengine.errors import DataError, ModelError
from kdengine.storage.chance import Chance
from kdengine.storage.scores import CLASSIFICATION, Scoring
from kdengine.tasks.shared import Counting, MeanLoss, TaskOfClasses, class_weights, mixing, quotient
from kdengine.tasks.task import DataInfo

__all__ = ["Classification", "Confusion", "CrossEntropy", "TopK"]


class Classification(TaskOfClasses):
    """One class per image: targets are class indices [B] or soft targets [B, K].

    Args:
        num_classes: number of classes K.
        label_smoothing: label smoothing of the cross-entropy.
        weights: weight of each class in the loss, [K]; None for equal weights.
    """

    name = "classification"
    scoring: ClassVar[Scoring] = CLASSIFICATION

    @classmethod
    def of(cls, data: DataInfo, train: TrainSettings) -> Self:
        """Take the classes from the data, and label smoothing and class weights from the settings.

        Raises:
            SettingsError: there are class weights for another number of classes, or the classes of the images are unknown.
        """

        def balanced(targets: Tensor) -> Tensor:
            """N / (K * images of the class), so that the mean weight of an image is 1."""
            counts = torch.bincount(targets, minlength=data.num_classes)
            return len(targets) / (data.num_classes * counts.clamp(min=1))

        return cls(data.num_classes, train.label_smoothing, class_weights(data, train, balanced, "class", "classes"))

    @classmethod
    def check_targets(cls, targets: Tensor, num_classes: int, owner: str) -> None:
        """Require class indices [N] in 0 ... K - 1.

        Raises:
            DataError: they are something else.
        """
        if targets.ndim != 1 or targets.is_floating_point():
            raise DataError(
                f"{owner} has targets {targets.dtype} {list(targets.shape)}, but class indices int64 [N] are needed."
            )
        if num_classes < 2:
            raise DataError(
                f"{owner} has a single class, so there is nothing to tell apart. Give it two or more; for images without "
                "labels, use images:PATH."
            )
        low, high = int(targets.min()), int(targets.max())
        if low < 0 or high >= num_classes:
            raise DataError(
                f"{owner} has the label {low if low < 0 else high}, outside its {num_classes} classes, which count "
                f"from 0 to {num_classes - 1}. Leave out images without a label, or name every class in Data.classes."
            )

    def check(self, output: Tensor, target: Tensor | None = None, owner: str = "The network") -> None:
        """Require logits [B, K], and class indices [B] in 0 ... K - 1 or soft targets [B, K].

        Raises:
            ModelError: the output is not [B, K].
            DataError: the targets have neither form.
        """
        count, classes = len(output), self.num_classes
        if tuple(output.shape[1:]) != (classes,):
            raise ModelError(
                f"'{owner}' returns {list(output.shape)} for a batch of {count}, but the data has {classes} classes: "
                f"[{count}, {classes}] is needed. Give it one output per class."
            )
        if target is None:
            return
        soft = target.is_floating_point()
        if tuple(target.shape) != ((count, classes) if soft else (count,)):
            raise DataError(
                f"The targets are {list(target.shape)} for a batch of {count}: class indices [{count}] or soft targets "
                f"[{count}, {classes}] are needed. Fix the targets that the data returns."
            )

    def loss(self, output: Tensor, target: Tensor | None) -> Tensor | None:
        """Cross-entropy, averaged over the batch."""
        if target is None:
            return None
        return F.cross_entropy(output, target, self.weights_beside(output), label_smoothing=self.label_smoothing)

    def mixing(self, train: TrainSettings) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None:
        """Mixup and CutMix; targets become shares of classes [B, K]."""
        return mixing(train, self.num_classes)

    def sampling_weights(self, targets: Tensor) -> Tensor:
        """One divided by the number of images of the class, [N]."""
        counts = torch.bincount(targets.cpu(), minlength=self.num_classes)
        return 1.0 / counts.double()[targets.cpu()]

    def metrics(self) -> MetricCollection:
        """Top-1 and top-5 accuracy in percent, and the mean cross-entropy without label smoothing."""
        return MetricCollection(
            {"top1": TopK(1), "top5": TopK(min(5, self.num_classes)), "loss": CrossEntropy()}, compute_groups=False
        )

    def confusion(self) -> Metric:
        """Images of each class by the class that the network gives them."""
        return Confusion(self.num_classes)

    def predictions(self, output: Tensor, names: Sequence[str] = (), limit: int = 1) -> list[list[dict[str, Any]]]:
        """The likeliest classes of each image, with their softmax probabilities."""
        found = output.double().softmax(1).topk(min(limit, self.num_classes), dim=1)
        ranked = zip(found.indices.tolist(), found.values.tolist(), strict=True)
        return [
            [
                {"class": names[index] if names else str(index), "index": index, "probability": probability}
                for index, probability in zip(*answers, strict=True)
            ]
            for answers in ranked
        ]

    def chance(self, targets: Tensor | None = None) -> Chance | None:
        """The share of the most frequent class, or 1 / K if the targets are not known; the loss of even odds, ln K."""
        if self.num_classes < 2:
            return None
        if targets is None or not len(targets):
            return Chance(100 / self.num_classes, math.log(self.num_classes))
        classes = targets.argmax(1) if targets.is_floating_point() else targets
        return Chance(100 * int(classes.bincount().max()) / len(classes), math.log(self.num_classes))


class TopK(Counting):
    """Accuracy in percent: the share of images whose class is among the k largest logits.

    Counts are integers and the quotient is float64 (torchmetrics' own accuracy rounds to float32), so equal counts always give
    equal values. For soft targets, the class is the one with the largest value.

    Args:
        k: number of top logits that may include the class.
    """

    right: Tensor

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k
        self.add_state("right", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, output: Tensor, target: Tensor | None) -> None:
        """Add a batch: logits [B, K] and class indices [B] or soft targets [B, K]; nothing without targets."""
        if target is None:
            return
        classes = target.argmax(1) if target.is_floating_point() else target
        nearest = output.argmax(1, keepdim=True) if self.k == 1 else output.topk(self.k, dim=1).indices
        self.right += (nearest == classes[:, None]).sum()
        self.count += len(output)

    def compute(self) -> Tensor:
        """The accuracy in percent, []."""
        return quotient(100 * self.right, self.count)


class CrossEntropy(MeanLoss):
    """Mean cross-entropy over images."""

    def summed(self, output: Tensor, target: Tensor) -> Tensor:
        """The sum over a batch: logits [B, K] and class indices [B] or soft targets [B, K]."""
        return F.cross_entropy(output, target, reduction="sum")


class Confusion(Metric):
    """Counts of images by their true and their predicted class. For soft targets, the class is the one with the largest value.

    Args:
        num_classes: number of classes K.
    """

    full_state_update = False
    counts: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.add_state("counts", torch.zeros(num_classes, num_classes, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, output: Tensor, target: Tensor | None) -> None:
        """Add a batch: logits [B, K] and class indices [B] or soft targets [B, K]; nothing without targets."""
        if target is None:
            return
        classes = len(self.counts)
        true = target.argmax(1) if target.is_floating_point() else target
        cells = torch.bincount(true * classes + output.argmax(1), minlength=classes**2)
        self.counts += cells.view(classes, classes)

    def compute(self) -> Tensor:
        """The counts, int64 [K, K]: a row for each true class, a column for each predicted one."""
        return self.counts
