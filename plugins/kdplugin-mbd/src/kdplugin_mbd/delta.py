"""Merit-based distillation with two weights: a larger one where the teacher is right, a smaller one where it is wrong."""

from __future__ import annotations

from typing import Any

from pydantic import Field
from torch import Tensor

from kdengine import Registrar, hookimpl
from kdplugin_mbd.base import MeritBased, correct

__all__ = ["DeltaMerit", "delta_merit"]

ROUNDING = 1e-9
"""Tolerance on the range from 0 to 1, since decimal fractions are not exact."""


def delta_merit(teacher_BK: Tensor, labels_B: Tensor, alpha: float = 0.5, delta: float = 0.1) -> Tensor:
    """Alpha + delta where the teacher classifies the image as labelled, alpha - delta elsewhere; [B].

    Args:
        teacher_BK: logits of the teacher, [B, K].
        labels_B: class indices, [B].
        alpha: mean of the two weights.
        delta: half of their difference.
    """
    return alpha + delta * (2 * correct(teacher_BK, labels_B) - 1)


class DeltaMerit(MeritBased):
    """Merit-based distillation, delta: mimic the teacher a little more where it is right.

    (1 - m) CE(z_s, y) + m T^2 KL(softmax(z_t / T) || softmax(z_s / T)), m = alpha + delta or alpha - delta

    Source: Morikawa, "CNN Model Compression by Merit-based Distillation", 2023; as in
    motakuss/Knowledge-Distillation-Technique.
    """

    name = "mbd-delta"

    class Options(MeritBased.Options):
        """Options of the method."""

        alpha: float = Field(0.5, ge=0, le=1)
        """Weight of the teacher's part in the loss of an image; the label has the rest."""
        delta: float = Field(0.1, ge=0)
        """How much the teacher's part gains in weight where the teacher is right, and loses where it is wrong."""

        def model_post_init(self, context: Any) -> None:
            """Refuse weights outside 0 to 1."""
            right, wrong = self.alpha + self.delta, self.alpha - self.delta
            if wrong < -ROUNDING or right > 1 + ROUNDING:
                raise ValueError(
                    f"alpha={self.alpha:g} and delta={self.delta:g} weigh the teacher's part with alpha + delta = {right:g} "
                    f"and alpha - delta = {wrong:g}, which must lie between 0 and 1: take a delta of at most "
                    f"{min(self.alpha, 1 - self.alpha):g}"
                )

    options: Options

    def merit(self, teacher_BK: Tensor, labels_B: Tensor) -> Tensor:
        """Alpha + delta or alpha - delta, [B]."""
        return delta_merit(teacher_BK, labels_B, self.options.alpha, self.options.delta)


@hookimpl
def kdengine_register(registry: Registrar) -> None:
    """Offer the method."""
    registry.distiller(DeltaMerit)
