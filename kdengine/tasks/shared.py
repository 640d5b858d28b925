"""What tasks with one output per class or label have in common: mixing, weights by class, and metrics that average."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

from kdengine.config.settings import TrainSettings
from kdengine.errors import SettingsError
from kdengine.tasks.task import DataInfo, Task

__all__ = ["Counting", "MeanLoss", "TaskOfClasses", "Weighted", "class_weights", "mixing", "quotient"]


class Weighted(Task):
    """Base of tasks whose loss has weights and label smoothing.

    Args:
        label_smoothing: of the targets.
        weights: of the outputs in the loss, [K]; None for equal weights.
    """

    def __init__(self, label_smoothing: float = 0.0, weights: Tensor | None = None) -> None:
        self.label_smoothing = label_smoothing
        self.weights = weights

    def weights_beside(self, output: Tensor) -> Tensor | None:
        """The weights on the device of an output; they stay there, for to copy them in each step would wait for the device."""
        self.weights = None if self.weights is None else self.weights.to(output.device)
        return self.weights


class TaskOfClasses(Weighted):
    """Base of tasks whose outputs are logits of K classes, [B, K] or [B, K, h, w].

    Args:
        num_classes: number of classes K.
        label_smoothing: label smoothing of the cross-entropy.
        weights: weight of each class in the loss, [K]; None for equal weights.
    """

    def __init__(self, num_classes: int, label_smoothing: float = 0.0, weights: Tensor | None = None) -> None:
        super().__init__(label_smoothing, weights)
        self.num_classes = num_classes

    @property
    def num_outputs(self) -> int:
        """One logit, or one map of logits, per class."""
        return self.num_classes

    def join(self, outputs: Sequence[Tensor]) -> Tensor:
        """The logarithm of the mean of the probabilities of several networks, which is a valid output of logits."""
        log_probabilities = torch.stack([F.log_softmax(output, dim=1) for output in outputs])
        return torch.logsumexp(log_probabilities, dim=0) - math.log(len(outputs))


def mixing(train: TrainSettings, outputs: int) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None:
    """Mixup and CutMix, of which each batch draws one if both are asked for; targets become shares [B, K].

    Sources: Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018; Yun et al., "CutMix: Regularization
    Strategy to Train Strong Classifiers with Localizable Features", ICCV 2019.

    Args:
        train: says which, and how much.
        outputs: number of classes or labels K.
    """
    if not (train.mixup or train.cutmix):
        return None
    from torchvision.transforms import v2

    kinds = ((v2.MixUp, train.mixup), (v2.CutMix, train.cutmix))
    mixes = [kind(alpha=alpha, num_classes=outputs) for kind, alpha in kinds if alpha]
    mix: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = mixes[0] if len(mixes) == 1 else v2.RandomChoice(mixes)
    return mix


def class_weights(
    data: DataInfo, train: TrainSettings, balanced: Callable[[Tensor], Tensor], one: str, many: str
) -> Tensor | None:
    """The weights in the loss that the settings ask for, [K]; None for equal ones.

    Args:
        data: with the number of outputs K and the targets of all training images.
        train: with ``class_weights``.
        balanced: makes weights [K] of these targets, for 'balanced'.
        one: what an output stands for, ``class``.
        many: several of them, ``classes``.

    Raises:
        SettingsError: there are weights for another number of outputs, or the targets of the images are unknown.
    """
    if train.class_weights == "none":
        return None
    if train.class_weights == "balanced":
        if data.targets is None:
            raise SettingsError(
                "train.class_weights = 'balanced' needs data that kdengine loads, whose labels it can count. Give a number for "
                f"each {one} instead."
            )
        return balanced(data.targets.cpu()).float()
    if len(train.class_weights) != data.num_classes:
        raise SettingsError(
            f"train.class_weights has {len(train.class_weights)} numbers, but the data has {data.num_classes} {many}. Give "
            f"one for each {one}, in their order."
        )
    return torch.tensor(train.class_weights)


class Counting(Metric):
    """Base of metrics that average over images; processes add up the sums, not the averages."""

    full_state_update = False
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("count", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")


class MeanLoss(Counting):
    """Base of losses averaged over images."""

    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    @abstractmethod
    def summed(self, output: Tensor, target: Tensor) -> Tensor:
        """The sum of the losses of a batch, []."""

    def update(self, output: Tensor, target: Tensor | None) -> None:
        """Add a batch, with the arguments of the task's loss; nothing without targets."""
        if target is None:
            return
        self.total += self.summed(output, target)
        self.count += len(output)

    def compute(self) -> Tensor:
        """The mean, []."""
        return quotient(self.total, self.count)


def quotient(total: Tensor, count: Tensor) -> Tensor:
    """Divide in float64 if the device supports it."""
    dtype = torch.float32 if count.device.type == "mps" else torch.float64
    return total.to(dtype) / count.to(dtype)
