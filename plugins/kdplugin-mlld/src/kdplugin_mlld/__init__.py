"""Multi-level logit distillation: predictions, and how they relate images and classes, at several temperatures."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from kdengine import Distiller, Registrar, Step, TapPair, gram, hookimpl

__all__ = ["MLLD", "instance_loss", "least_confident", "relation_losses"]

# B: images of a batch, K: classes.

Masks = tuple[Tensor, Tensor]
"""Which images [B] and which classes [K] count, as 0 or 1."""


def least_confident(teacher_BK: Tensor, share: float) -> Masks:
    """The share of the images, and of the classes, that a teacher is least confident of.

    Confidence in an image is its largest probability; that in a class is the sum of its probabilities over the batch.

    Args:
        teacher_BK: logits of the teacher, [B, K].
        share: in (0, 1]; what has just the confidence of the limit counts too.
    """
    p_BK = teacher_BK.softmax(1)
    images_B, classes_K = ((values <= values.quantile(share)).to(p_BK.dtype) for values in (p_BK.amax(1), p_BK.sum(0)))
    return images_B, classes_K


def instance_loss(student_BK: Tensor, teacher_BK: Tensor, temperature: float, images_B: Tensor) -> Tensor:
    """Mean over the images of T^2 KL(p || q), p = softmax(teacher / T), q = softmax(student / T); [].

    Args:
        student_BK: logits of the student, [B, K].
        teacher_BK: logits of the teacher, [B, K].
        temperature: T > 0, dimensionless.
        images_B: 1 for each image that counts; the others add 0 to the mean.
    """
    divergence_BK = F.kl_div(*_log_q_and_p(student_BK, teacher_BK, temperature), reduction="none")
    return temperature**2 * (images_B * divergence_BK.sum(1)).mean()


def relation_losses(student_BK: Tensor, teacher_BK: Tensor, temperature: float, masks: Masks) -> tuple[Tensor, Tensor]:
    """How predictions relate images and classes: squared differences of Gram matrices, summed over a row, mean over rows.

    Q Q^T and P P^T have a row for each image, Q^T Q and P^T P one for each class, where Q, P [B, K] are the probabilities.

    Args:
        student_BK: logits of the student, [B, K].
        teacher_BK: logits of the teacher, [B, K].
        temperature: T > 0, dimensionless.
        masks: the images and the classes whose rows count; the others add 0 to the mean.

    Returns:
        That of images, and that of classes, [] each.
    """
    log_q_BK, p_BK = _log_q_and_p(student_BK, teacher_BK, temperature)
    q_BK, (images_B, classes_K) = log_q_BK.exp(), masks
    images_BB = gram(q_BK) - gram(p_BK)
    classes_KK = gram(q_BK.T) - gram(p_BK.T)
    return (images_B * images_BB.square().sum(1)).mean(), (classes_K * classes_KK.square().sum(1)).mean()


def _log_q_and_p(student_BK: Tensor, teacher_BK: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    return F.log_softmax(student_BK / temperature, dim=1), F.softmax(teacher_BK / temperature, dim=1)


class MLLD(Distiller):
    """Multi-level logit distillation: compare predictions, their relations between images, and those between classes.

    All of it at several temperatures, on two augmentations of each image, where the teacher is least confident.

    Source: Jin, Wang, Lin, "Multi-Level Logit Distillation", CVPR 2023.
    """

    name = "mlld"
    category = "response"
    groups = ("logits", "modern")
    taps = ("logits",)
    takes = "logits"
    needs = ("views:2",)
    presets: ClassVar = {
        "release": {"masked": "first", "relations": "first"},
        "lskd": {"alpha": 9.0, "temperatures": (2.0, 2.0, 3.0, 5.0, 6.0)},
    }

    class Options(Distiller.Options):
        """Options of multi-level logit distillation."""

        alpha: float = Field(0.9, ge=0)
        """Weight of the terms of all levels."""
        task: float = Field(0.1, ge=0)
        """Weight of the task loss on each of the two views."""
        temperatures: tuple[Annotated[float, Field(gt=0)], ...] = Field((2.0, 3.0, 4.0, 5.0, 6.0), min_length=1)
        """Temperatures at which predictions are compared; the terms are summed."""
        share: float = Field(0.5, gt=0, le=1)
        """Share of the images, and of the classes, that count: those the teacher is least confident of in the first view."""
        masked: Literal["both", "first"] = "both"
        """Whether only that share counts in both views or in the first, while all of the second counts."""
        relations: Literal["both", "first"] = "both"
        """Whether relations are compared in both views or in the first, while predictions always are in both."""

    options: Options

    @property
    def task_weight(self) -> float:
        """The weight of the task loss on the first view."""
        return self.options.task

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The terms ``instance``, ``batch`` and ``class``, and ``task``, the task loss on the second view."""
        first, second = step.views
        losses = [self._tap_losses(views) for views in zip(first.pairs, second.pairs, strict=True)]
        sums = self.options.alpha * torch.stack(losses).sum(0)
        terms = dict(zip(("instance", "batch", "class"), sums.unbind(), strict=True))
        if self.options.task and step.targets is not None:
            terms["task"] = self.options.task * second.task_loss()
        return terms

    def _tap_losses(self, views: tuple[TapPair, TapPair]) -> Tensor:
        """The losses at the three levels, [3], summed over temperatures and views."""
        low = least_confident(views[0].teacher, self.options.share)
        every = (torch.ones_like(low[0]), torch.ones_like(low[1]))
        masks = (low, low if self.options.masked == "both" else every)
        instances, relations = [], []
        for temperature in self.options.temperatures:
            for number, tap in enumerate(views):
                tensors = (tap.student, tap.teacher, temperature)
                instances.append(instance_loss(*tensors, masks[number][0]))
                if number == 0 or self.options.relations == "both":
                    relations.append(torch.stack(relation_losses(*tensors, masks[number])))
        return torch.cat([torch.stack(instances).sum(0, keepdim=True), torch.stack(relations).sum(0)])


@hookimpl
def kdengine_register(registry: Registrar) -> None:
    """Offer the method."""
    registry.distiller(MLLD)
