"""Merit-based distillation, all or nothing: where the teacher is wrong, the label alone teaches."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from kdengine import Registrar, hookimpl
from kdplugin_mbd.base import MeritBased, correct

__all__ = ["HardMerit", "hard_merit"]


def hard_merit(teacher_BK: Tensor, labels_B: Tensor, alpha: float = 0.5) -> Tensor:
    """Alpha where the teacher classifies the image as labelled, 0 elsewhere; [B].

    Args:
        teacher_BK: logits of the teacher, [B, K].
        labels_B: class indices, [B].
        alpha: the teacher's weight where it is right.
    """
    return alpha * correct(teacher_BK, labels_B)


class HardMerit(MeritBased):
    """Merit-based distillation, hard: mimic the teacher only where it is right.

    (1 - m) CE(z_s, y) + m T^2 KL(softmax(z_t / T) || softmax(z_s / T)), m = alpha or 0

    Source: Morikawa, "CNN Model Compression by Merit-based Distillation", 2023; as in
    motakuss/Knowledge-Distillation-Technique.
    """

    name = "mbd-hard"

    class Options(MeritBased.Options):
        """Options of the method."""

        alpha: float = Field(0.5, ge=0, le=1)
        """Weight of the teacher's part in the loss of an image; the label has the rest."""

    options: Options

    def merit(self, teacher_BK: Tensor, labels_B: Tensor) -> Tensor:
        """Alpha or 0, [B]."""
        return hard_merit(teacher_BK, labels_B, self.options.alpha)


@hookimpl
def kdengine_register(registry: Registrar) -> None:
    """Offer the method."""
    registry.distiller(HardMerit)
