"""DIST: the student's probabilities correlate with the teacher's, within images and within classes."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from kdengine import Distiller, Registrar, Step, hookimpl

__all__ = ["DIST", "correlation_loss", "dist_losses"]

# B: images of a batch, K: classes.

SHORTEST = 1e-5
"""Least norm of centred probabilities in the quotient: beside it a shorter one counts as no pattern, so that uniform
probabilities get small gradients instead of huge ones."""


def correlation_loss(student_NM: Tensor, teacher_NM: Tensor) -> Tensor:
    """Mean over the rows of 1 - r, r the correlation of Pearson of two rows; [].

    Args:
        student_NM: [N, M].
        teacher_NM: [N, M].
    """
    student_NM, teacher_NM = (rows_NM - rows_NM.mean(1, keepdim=True) for rows_NM in (student_NM, teacher_NM))
    units = [rows_NM / _norm(rows_NM).clamp(min=SHORTEST) for rows_NM in (student_NM, teacher_NM)]
    return 1.0 - (units[0] * units[1]).sum(1).mean()


def _norm(rows_NM: Tensor) -> Tensor:
    """Euclidean norm of each row, [N, 1]; differentiable at zero, where the gradient is 0."""
    return rows_NM.square().sum(1, keepdim=True).clamp(min=SHORTEST**2).sqrt()


def dist_losses(student_BK: Tensor, teacher_BK: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """The loss between the classes of each image, and that between the images of each class; [] each.

    A batch of one image has nothing to compare within a class, and the second is 0.

    Args:
        student_BK: logits of the student, [B, K].
        teacher_BK: logits of the teacher, [B, K].
        temperature: tau > 0, dimensionless. The losses do not include the factor tau^2.
    """
    q_BK, p_BK = (F.softmax(logits_BK / temperature, dim=1) for logits_BK in (student_BK, teacher_BK))
    inter = correlation_loss(q_BK, p_BK)
    intra = correlation_loss(q_BK.t(), p_BK.t()) if len(q_BK) > 1 else 0.0 * q_BK.sum()
    return inter, intra


class DIST(Distiller):
    """DIST: probabilities of teacher and student need not be equal, only correlate, over classes and over images.

    tau^2 (beta (1 - mean_b r(q_b, p_b)) + gamma (1 - mean_k r(q_k, p_k)))

    Source: Huang, You, Wang, Qian, Xu, "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022, arXiv:2205.10536.
    """

    name = "dist"
    category = "response"
    groups = ("logits", "modern")
    taps = ("logits",)
    takes = "logits"
    presets: ClassVar = {"cifar100": {"temperature": 4.0}, "imagenet": {"temperature": 1.0}}

    class Options(Distiller.Options):
        """Options of DIST."""

        beta: float = Field(2.0, ge=0)
        """Weight of the term between the classes of each image."""
        gamma: float = Field(2.0, ge=0)
        """Weight of the term between the images of each class."""
        temperature: float = Field(4.0, gt=0)
        """Temperature tau of both softmaxes."""

    options: Options

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The terms ``inter`` and ``intra``, each the sum over all taps."""
        options = self.options
        pairs = [dist_losses(tap.student, tap.teacher, options.temperature) for tap in step.pairs]
        inters, intras = zip(*pairs, strict=True)
        factor = options.temperature**2
        return {
            "inter": factor * options.beta * torch.stack(inters).sum(),
            "intra": factor * options.gamma * torch.stack(intras).sum(),
        }


@hookimpl
def kdengine_register(registry: Registrar) -> None:
    """Offer the method."""
    registry.distiller(DIST)
