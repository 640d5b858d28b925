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

FLATTEST = 1e-2
"""Standard deviation of a row, as a share of its mean, below which the gradient is what it would be here: a student that starts
from a zeroed head would get huge gradients. A class that is rare in a batch is small, but not flat."""

ROUNDING = 1e-6
"""The same for the row itself: below this, its differences are those of rounding in float32."""

SHORTEST = 1e-12
"""Least norm to divide by, for probabilities that are zero in float32."""


def correlation_loss(student_NM: Tensor, teacher_NM: Tensor) -> Tensor:
    """Mean over the rows of 1 - r, r the correlation of Pearson of two rows; [].

    Args:
        student_NM: probabilities, [N, M].
        teacher_NM: probabilities, [N, M].
    """
    return 1.0 - (_patterns(student_NM) * _patterns(teacher_NM)).sum(1).mean()


def _patterns(rows_NM: Tensor) -> Tensor:
    """Rows with mean 0 and norm 1, [N, M]; the gradient of a nearly uniform row is damped, its values are as they are."""
    mean_N1 = rows_NM.mean(1, keepdim=True)
    size_N1 = mean_N1.detach() * rows_NM.shape[1] ** 0.5
    centred_NM = rows_NM - mean_N1
    least_N1 = (ROUNDING * size_N1).clamp(min=SHORTEST)
    # the squares are floored before the root, whose slope at zero is infinite
    norm_N1 = centred_NM.square().sum(1, keepdim=True).maximum(least_N1.square()).sqrt()
    units_NM = centred_NM / norm_N1
    damping_N1 = (norm_N1.detach() / (FLATTEST * size_N1).clamp(min=SHORTEST)).clamp(max=1.0)
    patterns_NM: Tensor = units_NM.detach() + damping_N1 * (units_NM - units_NM.detach())
    return patterns_NM


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
