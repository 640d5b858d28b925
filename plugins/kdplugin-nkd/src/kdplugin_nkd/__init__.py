"""Normalised knowledge distillation: the teacher's view of the other classes, brought to one sum on both sides."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from kdengine import Distiller, Registrar, Step, hookimpl

__all__ = ["NKD", "normalised_losses"]

# B: images of a batch, K: classes.


def _others(logits_BK: Tensor, itself_BK: Tensor) -> Tensor:
    """Log-shares of the classes but an image's own, which sum to one; 0 at its own class. [B, K] -> [B, K]."""
    rest_BK = logits_BK.masked_fill(itself_BK, -torch.inf)
    return (rest_BK - rest_BK.logsumexp(1, keepdim=True)).masked_fill(itself_BK, 0.0)


def normalised_losses(student_BK: Tensor, teacher_BK: Tensor, classes_B: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The soft target of the class, -p_y log q_y at temperature 1, and the cross-entropy H(p^, q^) of the others at T.

    p^ and q^: the shares of all classes but y, divided by their sum.

    Args:
        student_BK: logits of the student, [B, K], K > 1.
        teacher_BK: logits of the teacher, [B, K].
        classes_B: class of each image, int64 [B].
        temperature: T > 0, dimensionless, of the others alone.

    Returns:
        Both terms, each the mean over the batch [], without the factor T^2.
    """
    itself_BK = F.one_hot(classes_B, student_BK.shape[1]).bool()
    places_B1 = classes_B[:, None]
    log_q_B1 = F.log_softmax(student_BK, dim=1).gather(1, places_B1)
    p_B1 = F.softmax(teacher_BK, dim=1).gather(1, places_B1)
    log_q_BK, log_p_BK = (_others(logits_BK / temperature, itself_BK) for logits_BK in (student_BK, teacher_BK))
    others_BK = (log_p_BK.exp() * log_q_BK).masked_fill(itself_BK, 0.0)
    return -(p_B1 * log_q_B1).mean(), -others_BK.sum(1).mean()


class NKD(Distiller):
    """Normalised distillation: a soft target for the class, and the cross-entropy of the other classes' shares.

    -p_y log q_y - gamma T^2 sum over c != y of p^_c log q^_c

    Source: Yang, Zeng, Li, Zhang, Yuan, Li, "From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach
    with Normalized Loss and Customized Soft Labels", ICCV 2023, arXiv:2303.13005.
    """

    name = "nkd"
    category = "response"
    groups = ("logits", "modern")
    taps = ("logits",)
    takes = "logits"
    needs = ("labels",)
    presets: ClassVar = {"imagenet": {"gamma": 1.5, "temperature": 1.0}}

    class Options(Distiller.Options):
        """Options of normalised distillation."""

        gamma: float = Field(1.5, ge=0)
        """Weight of the term of the other classes."""
        temperature: float = Field(1.0, gt=0)
        """Temperature T of the other classes' shares."""

    options: Options

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The terms ``target`` and ``others``, each the sum over all taps."""
        temperature = self.options.temperature
        pairs = [normalised_losses(tap.student, tap.teacher, step.classes, temperature) for tap in step.pairs]
        targets, others = zip(*pairs, strict=True)
        return {
            "target": torch.stack(targets).sum(),
            "others": self.options.gamma * temperature**2 * torch.stack(others).sum(),
        }


@hookimpl
def kdengine_register(registry: Registrar) -> None:
    """Offer the method."""
    registry.distiller(NKD)
