"""Information-theoretic representation distillation: two losses from cheap estimates of entropy."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from kdengine import Distiller, Pair, Registrar, Step, TapPair, gram, hookimpl, l2_normalize, pool_to_vectors

__all__ = ["ITRD", "correlation_loss", "information_loss"]

# B: images of a batch, D: length of an embedding.

SMALLEST = 1e-12
"""Smallest squared norm of a Gram matrix whose logarithm is taken."""


def correlation_loss(student_BD: Tensor, teacher_BD: Tensor, alpha: float = 1.01) -> Tensor:
    """log2 sum_d |c_d - 1|^(2 alpha), c_d: correlation of feature d in both networks; []. Zero for a batch of one.

    c_d = 1/B sum_b z_s z_t, where z is a feature minus its mean over the batch, divided by its standard deviation. As in the
    authors' code the deviation has B - 1 in its denominator, so that c_d is at most (B - 1) / B and the sum never zero. A
    feature that is constant over the batch correlates with nothing: c_d = 0.

    Args:
        student_BD: embeddings of the student, [B, D].
        teacher_BD: embeddings of the teacher, of the same shape. They get no gradient.
        alpha: order of the entropy.
    """
    count = len(student_BD)
    if count < 2:
        return 0.0 * student_BD.sum()
    student_BD, teacher_BD = (l2_normalize(x - x.mean(0), dim=0) for x in (student_BD, teacher_BD.detach()))
    correlations_D = (student_BD * teacher_BD).sum(0) * (count - 1) / count
    # a logarithm of powers: the powers alone underflow where alpha is large
    return torch.logsumexp(2 * alpha * (1 - correlations_D).log(), 0) / math.log(2)


def _gram(x_BD: Tensor) -> Tensor:
    """Cosines of all pairs, [B, B]."""
    unit_BD = l2_normalize(x_BD)
    return gram(unit_BD)


def _squares(gram_BB: Tensor) -> Tensor:
    """Squared Frobenius norm of a Gram matrix, scaled to trace 1; []."""
    return (gram_BB / gram_BB.trace().clamp(min=0.5)).square().sum()  # the trace counts the vectors that are not zero


def information_loss(student_BD: Tensor, teacher_BD: Tensor, logarithm: bool = False) -> Tensor:
    """||G_s||^2 - ||G_st||^2 of Gram matrices with trace 1, which falls as the mutual information of two networks rises; [].

    G_s: cosines of all pairs of images in the student; G_st: their products with those in the teacher. The entropy of order 2
    of a Gram matrix is -log2 ||G||^2.

    Args:
        student_BD: embeddings of the student, [B, D].
        teacher_BD: embeddings of the teacher, [B, D']; D' may differ. They get no gradient.
        logarithm: compare the entropies, log2 ||G_s||^2 - log2 ||G_st||^2, instead of the squared norms.
    """
    student_BB = _gram(student_BD)
    own, joint = _squares(student_BB), _squares(student_BB * _gram(teacher_BD.detach()))
    if logarithm:
        return own.clamp(min=SMALLEST).log2() - joint.clamp(min=SMALLEST).log2()
    return own - joint


class ITRD(Distiller):
    """Information-theoretic representation distillation: correlate each feature, and share information between images.

    beta log2 sum_d |c_d - 1|^(2 alpha) + gamma (||G_s||^2 - ||G_st||^2)

    Source: Miles, Lopez-Rodriguez, Mikolajczyk, "Information Theoretic Representation Distillation", BMVC 2022,
    arXiv:2112.00459; weights as in the authors' code.
    """

    name = "itrd"
    category = "relational"
    groups: ClassVar = ("relations", "modern")
    taps = ("embedding",)
    takes = "features"
    presets: ClassVar = {"script": {"alpha": 1.5, "information": 0.05}}

    class Options(Distiller.Options):
        """Options of information-theoretic representation distillation."""

        correlation: float = Field(2.0, ge=0)
        """Weight of the correlation term."""
        information: float = Field(1.0, ge=0)
        """Weight of the mutual-information term."""
        alpha: float = Field(1.01, ge=0.5)
        """Order of the entropy in the correlation term."""
        logarithm: bool = False
        """Compare the entropies in the mutual-information term, which have a logarithm, instead of the squared norms."""

    options: Options

    def build(self, pair: Pair) -> None:
        """One linear embedding of the student's features per tap, to the width of the teacher's."""
        widths = [tuple(pool_to_vectors(x).shape[1] for x in (tap.student, tap.teacher)) for tap in pair.pairs]
        self.embeddings = nn.ModuleList(nn.Linear(student, teacher) for student, teacher in widths)

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The terms ``correlation`` and ``information``, each the sum over all taps."""
        pairs = [self._terms(embed, tap) for embed, tap in zip(self.embeddings, step.pairs, strict=True)]
        correlations, informations = zip(*pairs, strict=True)
        return {
            "correlation": self.options.correlation * torch.stack(correlations).sum(),
            "information": self.options.information * torch.stack(informations).sum(),
        }

    def _terms(self, embed: nn.Module, tap: TapPair) -> tuple[Tensor, Tensor]:
        student_BD, teacher_BD = pool_to_vectors(tap.student), pool_to_vectors(tap.teacher)
        embedded_BD = embed(student_BD)
        # cosines need no embedding where the widths agree, and the authors use none there
        related_BD = student_BD if student_BD.shape == teacher_BD.shape else embedded_BD
        return (
            correlation_loss(embedded_BD, teacher_BD, self.options.alpha),
            information_loss(related_BD, teacher_BD, self.options.logarithm),
        )


@hookimpl
def kdengine_register(registry: Registrar) -> None:
    """Offer the method."""
    registry.distiller(ITRD)
