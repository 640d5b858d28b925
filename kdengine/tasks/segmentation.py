"""Semantic segmentation: a class for each pixel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from kdengine.config.settings import TrainSettings
from kdengine.errors import DataError, ModelError
from kdengine.storage.chance import Chance
from kdengine.storage.scores import Measure, Scoring
from kdengine.tasks.classification import Confusion
from kdengine.tasks.shared import MeanLoss, TaskOfClasses, class_weights
from kdengine.tasks.task import DataInfo

__all__ = ["IGNORED", "Segmentation"]

IGNORED = 255
"""The target of a pixel that is neither learned nor scored."""


class Segmentation(TaskOfClasses):
    """A class for each pixel: outputs are logits [B, K, h, w], targets class indices [B, H, W]; 255 is ignored.

    Outputs smaller than the targets are enlarged bilinearly.

    Args:
        num_classes: number of classes K.
        label_smoothing: label smoothing of the cross-entropy.
        weights: weight of the pixels of each class in the loss, [K]; None for equal weights.
    """

    name = "segmentation"
    outputs = "pixels"
    scoring: ClassVar[Scoring] = Scoring(
        "segmentation",
        (Measure("miou", "mIoU", "%"), Measure("accuracy", "pixel acc.", "%"), Measure("loss", "loss", higher_is_better=False)),
    )

    @classmethod
    def of(cls, data: DataInfo, train: TrainSettings) -> Self:
        """Take the classes from the data, and label smoothing and class weights from the settings.

        Raises:
            SettingsError: there are class weights for another number of classes, or the masks are unknown.
        """

        def balanced(targets: Tensor) -> Tensor:
            """Pixels / (K * pixels of the class), so that the mean weight of a pixel is 1."""
            counts = _pixels_of(targets, data.num_classes)
            return counts.sum() / (data.num_classes * counts.clamp(min=1))

        return cls(data.num_classes, train.label_smoothing, class_weights(data, train, balanced, "class", "classes"))

    @classmethod
    def check_targets(cls, targets: Tensor, num_classes: int, owner: str) -> None:
        """Require masks [N, H, W] of class indices in 0 ... K - 1, or 255.

        Raises:
            DataError: they are something else.
        """
        if targets.ndim != 3 or targets.is_floating_point():
            raise DataError(f"{owner} has targets {targets.dtype} {list(targets.shape)}, but masks uint8 [N, H, W] are needed.")
        known = targets[targets != IGNORED]
        if len(known) and not 0 <= int(known.min()) <= int(known.max()) < num_classes:
            wrong = int(known.max()) if int(known.max()) >= num_classes else int(known.min())
            raise DataError(
                f"{owner} has a mask with the value {wrong}, but its {num_classes} classes count from 0 to {num_classes - 1}. "
                f"Give {IGNORED} to pixels that belong to none."
            )

    def check(self, output: Tensor, target: Tensor | None = None, owner: str = "The network") -> None:
        """Require logits [B, K, h, w], and class indices [B, H, W].

        Raises:
            ModelError: the output is not [B, K, h, w].
            DataError: the targets are not [B, H, W].
        """
        count, classes = len(output), self.num_classes
        if output.ndim != 4 or output.shape[1] != classes:
            raise ModelError(
                f"'{owner}' returns {list(output.shape)} for a batch of {count}, but segmentation into {classes} classes needs "
                f"[{count}, {classes}, H, W]. Choose a segmentation network, such as seg:resnet18 or "
                "torchvision:lraspp_mobilenet_v3_large."
            )
        if target is not None and (target.ndim != 3 or len(target) != count or target.is_floating_point()):
            raise DataError(f"The targets are {list(target.shape)}, but masks of class indices [{count}, H, W] are needed.")

    def loss(self, output: Tensor, target: Tensor | None) -> Tensor | None:
        """Cross-entropy, averaged over the pixels of the batch that are not ignored; 0 where all are."""
        if target is None:
            return None
        target = target.long()
        weights = self.weights_beside(output)
        summed = F.cross_entropy(
            enlarged(output, target),
            target,
            weights,
            ignore_index=IGNORED,
            label_smoothing=self.label_smoothing,
            reduction="sum",
        )
        seen = target != IGNORED
        mass = seen.sum() if weights is None else (weights[torch.where(seen, target, 0)] * seen).sum()
        return summed / torch.where(mass > 0, mass, 1)

    def metrics(self) -> MetricCollection:
        """Mean over the classes of intersection over union, and the share of right pixels, in percent; the cross-entropy."""
        measures = {"miou": MeanIoU(self.num_classes), "accuracy": PixelAccuracy(self.num_classes), "loss": PixelCrossEntropy()}
        return MetricCollection(dict(measures), compute_groups=False)

    def confusion(self) -> Metric:
        """Pixels of each class by the class that the network gives them."""
        return PixelConfusion(self.num_classes)

    def predictions(self, output: Tensor, names: Sequence[str] = (), limit: int = 1) -> list[list[dict[str, Any]]]:
        """The classes on each image with the share of its pixels that the network gives them, the largest first."""
        classes = output.argmax(1).flatten(1)
        answers = []
        for pixels in classes.cpu():
            shares, order = (pixels.bincount(minlength=self.num_classes).double() / len(pixels)).sort(descending=True)
            answers.append(
                [
                    {"class": names[index] if names else str(index), "index": index, "share": share}
                    for index, share in zip(order.tolist(), shares.tolist(), strict=True)
                    if share
                ]
            )
        return answers

    def drawn(self, values: Tensor) -> Tensor | None:
        """A colour for each class, black for ignored pixels: logits [B, K, h, w] or masks [B, H, W] -> uint8 [B, 3, h, w]."""
        classes = (values.argmax(1) if values.ndim == 4 else values).long().cpu()
        return _colours()[classes].permute(0, 3, 1, 2)

    def chance(self, targets: Tensor | None = None) -> Chance | None:
        """What the most frequent class reaches everywhere: its share of the pixels, over the classes; the loss of even odds."""
        if self.num_classes < 2:
            return None
        if targets is None or targets.ndim != 3 or not len(targets):
            return Chance(100 / self.num_classes**2, math.log(self.num_classes))
        counts = _pixels_of(targets, self.num_classes)
        present = max(1, int((counts > 0).sum()))
        return Chance(100 * float(counts.max() / counts.sum().clamp(min=1)) / present, math.log(self.num_classes))


def _colours() -> Tensor:
    """Colours of the classes, uint8 [256, 3]: grey, then those of matplotlib's ``tab20``, again and again."""
    import matplotlib

    table = (torch.tensor(matplotlib.colormaps["tab20"](range(20)))[:, :3] * 255).round().to(torch.uint8)
    colours = table[(torch.arange(256) - 1) % len(table)]
    colours[0], colours[IGNORED] = 224, 0
    return colours


def enlarged(output: Tensor, target: Tensor) -> Tensor:
    """Logits [B, K, h, w] at the size of the targets [B, H, W]."""
    if output.shape[2:] == target.shape[1:]:
        return output
    return F.interpolate(output, target.shape[1:], mode="bilinear", align_corners=False)


def _pixels_of(targets: Tensor, num_classes: int) -> Tensor:
    """Pixels of each class in masks [N, H, W], float64 [K]."""
    return torch.bincount(targets[targets != IGNORED].flatten().long(), minlength=num_classes).double()


class MeanIoU(MulticlassJaccardIndex):
    """Intersection over union of each class over all pixels, averaged over the classes that occur; in percent."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, average="macro", ignore_index=IGNORED, validate_args=False)

    def update(self, output: Tensor, target: Tensor | None) -> None:
        """Add a batch: logits [B, K, h, w] and class indices [B, H, W]; nothing without targets."""
        if target is not None:
            super().update(enlarged(output, target).argmax(1), target.long())

    def compute(self) -> Tensor:
        """The mean in percent, []."""
        return 100 * super().compute()


class PixelAccuracy(MulticlassAccuracy):
    """Share of the pixels with the right class; in percent."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, average="micro", ignore_index=IGNORED, validate_args=False)

    def update(self, output: Tensor, target: Tensor | None) -> None:
        """Add a batch: logits [B, K, h, w] and class indices [B, H, W]; nothing without targets."""
        if target is not None:
            super().update(enlarged(output, target).argmax(1), target.long())

    def compute(self) -> Tensor:
        """The share in percent, []."""
        return 100 * super().compute()


class PixelCrossEntropy(MeanLoss):
    """Mean cross-entropy over the pixels that are not ignored."""

    def update(self, output: Tensor, target: Tensor | None) -> None:
        """Add a batch: logits [B, K, h, w] and class indices [B, H, W]; nothing without targets."""
        if target is None:
            return
        self.total += self.summed(output, target)
        self.count += (target != IGNORED).sum()

    def summed(self, output: Tensor, target: Tensor) -> Tensor:
        """The sum over the pixels of a batch."""
        return F.cross_entropy(enlarged(output, target), target.long(), ignore_index=IGNORED, reduction="sum")


class PixelConfusion(Confusion):
    """Counts of pixels by their true and their predicted class."""

    def update(self, output: Tensor, target: Tensor | None) -> None:
        """Add a batch: logits [B, K, h, w] and class indices [B, H, W]; nothing without targets."""
        if target is None:
            return
        seen = target != IGNORED
        super().update(enlarged(output, target).movedim(1, -1)[seen], target[seen].long())
