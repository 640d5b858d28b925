"""What both methods share: the power transform of the teacher, and the divergence of the student from it."""

from __future__ import annotations

from abc import abstractmethod

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from kdengine import Distiller, Step

__all__ = ["Matching", "divergences", "power_sum"]

# B: images of a batch, K: classes.


def divergences(student_BK: Tensor, teacher_BK: Tensor, gamma: float) -> Tensor:
    """KL(p^gamma / sum p^gamma || q) of every image, [B], where p and q are softmaxes without a temperature.

    Args:
        student_BK: logits of the student, [B, K].
        teacher_BK: logits of the teacher, [B, K].
        gamma: exponent of the power transform, which is a temperature of 1 / gamma on the teacher's side alone.
    """
    log_q_BK, log_p_BK = F.log_softmax(student_BK, dim=1), F.log_softmax(gamma * teacher_BK, dim=1)
    return F.kl_div(log_q_BK, log_p_BK, reduction="none", log_target=True).sum(1)


def power_sum(teacher_BK: Tensor, gamma: float) -> Tensor:
    """U = sum_k p_k^gamma of every image, [B]: from 1 where the teacher is certain to K^(1 - gamma) where it knows nothing.

    Args:
        teacher_BK: logits of the teacher, [B, K].
        gamma: exponent of the power transform, in (0, 1].
    """
    return (gamma * F.log_softmax(teacher_BK, dim=1)).logsumexp(1).exp()


class Matching(Distiller):
    """Base of both methods, which weigh the images differently."""

    category = "response"
    groups = ("logits", "modern")
    taps = ("logits",)
    takes = "logits"

    class Options(Distiller.Options):
        """Options of both methods."""

        gamma: float = Field(0.2, gt=0, le=1)
        """Exponent of the teacher's probabilities; 0.2 is a temperature of 5."""

    options: Options

    @property
    @abstractmethod
    def beta(self) -> float:
        """Weight of the divergence."""

    @abstractmethod
    def image_weights(self, teacher_BK: Tensor) -> Tensor | float:
        """Weight of every image, [B], or one for all."""

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The term ``match``, the sum over all taps."""
        losses = [
            (self.image_weights(tap.teacher) * divergences(tap.student, tap.teacher, self.options.gamma)).mean()
            for tap in step.pairs
        ]
        return {"match": self.beta * torch.stack(losses).sum()}
