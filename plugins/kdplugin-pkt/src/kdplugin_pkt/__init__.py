"""Probabilistic knowledge transfer: the student's images find the same neighbours likely as the teacher's."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from kdengine import Distiller, Registrar, Step, gram, hookimpl, l2_normalize, pool_to_vectors

__all__ = ["PKT", "probabilities", "transfer_loss"]

# B: images of a batch, D: length of an embedding; the two networks' D may differ.

SMALLEST = 1e-7
"""Added to every probability before its logarithm, as in the authors' code."""


def probabilities(x_BD: Tensor) -> Tensor:
    """How likely image i picks image j, p(j | i): the cosines of all pairs, moved to [0, 1], each row divided by its sum.

    The diagonal is included: [B, D] -> [B, B]. A zero vector has a cosine of 0 with every image.
    """
    unit_BD = l2_normalize(x_BD)
    similar_BB = ((gram(unit_BD) + 1) / 2).clamp(min=0)  # rounding may leave a cosine just below -1
    return similar_BB / similar_BB.sum(1, keepdim=True)


def transfer_loss(student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the student's probabilities from the teacher's, mean over all B^2 pairs; [].

    Args:
        student_BD: embeddings of the student, [B, D].
        teacher_BD: embeddings of the teacher, [B, D']; D' may differ. They get no gradient.
    """
    student_BB, teacher_BB = probabilities(student_BD), probabilities(teacher_BD.detach())
    return (teacher_BB * ((teacher_BB + SMALLEST).log() - (student_BB + SMALLEST).log())).mean()


class PKT(Distiller):
    """Probabilistic knowledge transfer: match the conditional probabilities that images pick one another as neighbours.

    beta mean_ij p_t(j | i) log p_t(j | i) / p_s(j | i), p(j | i) = k_ij / sum_j k_ij, k_ij = (cos(f_i, f_j) + 1) / 2

    Source: Passalis, Tefas, "Learning Deep Representations with Probabilistic Knowledge Transfer", ECCV 2018,
    arXiv:1803.10837; weight as in RepDistiller.
    """

    name = "pkt"
    category = "relational"
    groups: ClassVar = ("relations", "classic")
    taps = ("embedding",)
    takes = "features"
    presets: ClassVar = {"zoo": {"beta": 1e4}}

    class Options(Distiller.Options):
        """Options of probabilistic knowledge transfer."""

        beta: float = Field(30000.0, ge=0)
        """Weight of the sum over taps."""

    options: Options

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The term ``probability``, the sum over all taps."""
        losses = [transfer_loss(pool_to_vectors(tap.student), pool_to_vectors(tap.teacher)) for tap in step.pairs]
        return {"probability": self.options.beta * torch.stack(losses).sum()}


@hookimpl
def kdengine_register(registry: Registrar) -> None:
    """Offer the method."""
    registry.distiller(PKT)
