"""Correlation congruence: the images of a batch correlate in the student as they do in the teacher."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdengine import Distiller, Pair, Registrar, Step, TapPair, gram, hookimpl, l2_normalize, pool_to_vectors

__all__ = ["CorrelationCongruence", "congruence_loss", "correlations", "successor_loss"]

# B: images of a batch, D: length of an embedding; the two networks' D may differ.


def correlations(x_BD: Tensor, gamma: float = 0.4, order: int = 2) -> Tensor:
    """Gaussian kernel of all pairs of unit vectors, as a Taylor polynomial: [B, D] -> [B, B].

    exp(-gamma |u - v|^2) = exp(-2 gamma) exp(2 gamma u.v) = exp(-2 gamma) sum_p (2 gamma)^p / p! (u.v)^p, p up to ``order``.
    A zero vector stays zero.
    """
    unit_BD = l2_normalize(x_BD)
    cosines_BB = gram(unit_BD)
    sum_BB = torch.ones_like(cosines_BB)
    for power in range(order, 0, -1):  # Horner's rule
        sum_BB = 1 + 2 * gamma / power * cosines_BB * sum_BB
    return math.exp(-2 * gamma) * sum_BB


def congruence_loss(student_BD: Tensor, teacher_BD: Tensor, gamma: float = 0.4, order: int = 2) -> Tensor:
    """Squared difference of the correlations of two networks, mean over all B^2 pairs; [].

    Args:
        student_BD: embeddings of the student, [B, D].
        teacher_BD: embeddings of the teacher, [B, D']; D' may differ. They get no gradient.
        gamma: of the Gaussian kernel.
        order: of its Taylor polynomial.
    """
    return F.mse_loss(correlations(student_BD, gamma, order), correlations(teacher_BD.detach(), gamma, order))


def successor_loss(student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    """mean_i |s_i - t_i| . |s_(i+1) - t_(i+1)| over the images of a batch and their successors; []. Zero for a single image.

    Args:
        student_BD: embeddings of the student, [B, D].
        teacher_BD: embeddings of the teacher, of the same shape.
    """
    gap_BD = (student_BD - teacher_BD).abs()
    return (gap_BD[:-1] * gap_BD[1:]).sum() / max(len(gap_BD) - 1, 1)


class CorrelationCongruence(Distiller):
    """Correlation congruence: match the Gaussian kernels between the images of a batch.

    beta / B^2 ||K_s - K_t||_F^2, K_ij = exp(-2 gamma) sum_p (2 gamma)^p / p! (f_i.f_j)^p, f scaled to length 1

    Source: Peng, Jin, Liu, Li, Wu, Liu, Zhou, Zhang, "Correlation Congruence for Knowledge Distillation", ICCV 2019,
    arXiv:1904.01802; gamma, order and weight as in AberHu/Knowledge-Distillation-Zoo.
    """

    name = "cc"
    category = "relational"
    groups: ClassVar = ("relations", "classic")
    taps = ("embedding",)
    takes = "features"
    presets: ClassVar = {"repdistiller": {"form": "successors", "beta": 0.02}}

    class Options(Distiller.Options):
        """Options of correlation congruence."""

        beta: float = Field(100.0, ge=0)
        """Weight of the sum over taps."""
        form: Literal["kernel", "successors"] = "kernel"
        """Kernels of all pairs of images, or products of the differences of images that follow one another in a batch."""
        gamma: float = Field(0.4, gt=0)
        """Gamma of the Gaussian kernel."""
        order: int = Field(2, ge=1)
        """Order of its Taylor polynomial."""
        width: int = Field(128, ge=1)
        """Width of the linear embeddings of both networks in form 'successors'; form 'kernel' needs none."""

    options: Options

    def build(self, pair: Pair) -> None:
        """Two linear embeddings per tap in form ``successors``; nothing otherwise."""
        taps = pair.pairs if self.options.form == "successors" else []
        self.students = nn.ModuleList(self._embedding(tap.student) for tap in taps)
        self.teachers = nn.ModuleList(self._embedding(tap.teacher) for tap in taps)

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The term ``correlation``, the sum over all taps."""
        losses = [self._loss(number, tap) for number, tap in enumerate(step.pairs)]
        return {"correlation": self.options.beta * torch.stack(losses).sum()}

    def _loss(self, number: int, tap: TapPair) -> Tensor:
        student_BD, teacher_BD = pool_to_vectors(tap.student), pool_to_vectors(tap.teacher)
        if self.options.form == "kernel":
            return congruence_loss(student_BD, teacher_BD, self.options.gamma, self.options.order)
        return successor_loss(self.students[number](student_BD), self.teachers[number](teacher_BD))

    def _embedding(self, features: Tensor) -> nn.Linear:
        return nn.Linear(pool_to_vectors(features).shape[1], self.options.width)


@hookimpl
def kdengine_register(registry: Registrar) -> None:
    """Offer the method."""
    registry.distiller(CorrelationCongruence)
