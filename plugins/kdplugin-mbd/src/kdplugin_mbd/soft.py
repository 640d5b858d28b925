"""Merit-based distillation by degrees: the teacher's weight is the probability that it assigns to the label."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kdengine import Registrar, hookimpl
from kdplugin_mbd.base import MeritBased

__all__ = ["SoftMerit", "soft_merit"]


def soft_merit(teacher_BK: Tensor, labels_B: Tensor, temperature: float = 1.0) -> Tensor:
    """The probability that the teacher assigns to the label at a temperature; [B].

    Args:
        teacher_BK: logits of the teacher, [B, K].
        labels_B: class indices, [B].
        temperature: T > 0, dimensionless; the logits are divided by it once.
    """
    return F.softmax(teacher_BK / temperature, dim=1).gather(1, labels_B[:, None])[:, 0]


class SoftMerit(MeritBased):
    """Merit-based distillation, soft: mimic the teacher the more, the surer it is of the label.

    (1 - m) CE(z_s, y) + m T^2 KL(softmax(z_t / T) || softmax(z_s / T)), m = softmax(z_t / T)[y]

    Source: Morikawa, "CNN Model Compression by Merit-based Distillation", 2023; as in
    motakuss/Knowledge-Distillation-Technique.
    """

    name = "mbd-soft"

    def merit(self, teacher_BK: Tensor, labels_B: Tensor) -> Tensor:
        """The teacher's probability of the label, [B]."""
        return soft_merit(teacher_BK, labels_B, self.options.temperature)


@hookimpl
def kdengine_register(registry: Registrar) -> None:
    """Offer the method."""
    registry.distiller(SoftMerit)
