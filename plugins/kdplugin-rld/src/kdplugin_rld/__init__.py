"""Refined logit distillation: learn from a teacher what does not contradict the label."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from kdengine import Distiller, Registrar, Step, hookimpl, warmup

__all__ = ["RLD", "confidence_loss", "masked_loss"]

# B: images of a batch, K: classes.


def _binary(log_p_BK: Tensor, places_B1: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithms of one class's share and of all others together, [B] each."""
    rest_BK = log_p_BK.scatter(1, places_B1, -torch.inf)
    return log_p_BK.gather(1, places_B1)[:, 0], rest_BK.logsumexp(1)


def confidence_loss(student_BK: Tensor, teacher_BK: Tensor, classes_B: Tensor) -> Tensor:
    """Mean of KL((p_max, 1 - p_max) || (q_y, 1 - q_y)) over the batch; [].

    The student is to be as sure of the label as the teacher is of whatever it says. Softmaxes have temperature 1.

    Args:
        student_BK: logits of the student, [B, K].
        teacher_BK: logits of the teacher, [B, K].
        classes_B: class of each image, int64 [B].
    """
    theirs = _binary(F.log_softmax(teacher_BK, dim=1), teacher_BK.argmax(1, keepdim=True))
    ours = _binary(F.log_softmax(student_BK, dim=1), classes_B[:, None])
    parts = [p.exp() * (p - q) for p, q in zip(theirs, ours, strict=True)]
    return (parts[0] + parts[1]).mean()


def masked_loss(student_BK: Tensor, teacher_BK: Tensor, classes_B: Tensor, temperature: float) -> Tensor:
    """Mean of KL(p || q) over the batch, both among the classes that the teacher ranks below the label; [].

    p = softmax(teacher / T), q = softmax(student / T) over the classes c with z_t[c] < z_t[y]. An image of which no class, or a
    single one, is left counts as 0.

    Args:
        student_BK: logits of the student, [B, K].
        teacher_BK: logits of the teacher, [B, K].
        classes_B: class of each image, int64 [B].
        temperature: T > 0, dimensionless. The loss does not include the factor T^2.
    """
    below_BK = teacher_BK < teacher_BK.gather(1, classes_B[:, None])
    kept_B1 = below_BK.any(1, keepdim=True)
    masked_BK = ~below_BK & kept_B1  # where none is left all take part, and the image is dropped at the end
    log_q_BK, log_p_BK = (
        F.log_softmax((logits_BK / temperature).masked_fill(masked_BK, -torch.inf), dim=1)
        for logits_BK in (student_BK, teacher_BK)
    )
    # masked before the difference too: infinity minus infinity has no gradient
    difference_BK = log_p_BK.masked_fill(masked_BK, 0.0) - log_q_BK.masked_fill(masked_BK, 0.0)
    return (log_p_BK.exp() * difference_BK * kept_B1).sum(1).mean()


class RLD(Distiller):
    """Refined distillation: the teacher's confidence, and its ranking of the classes below the label, whoever is right.

    ramp (alpha KL((p_max, 1 - p_max) || (q_y, 1 - q_y)) + beta T^2 KL(p || q among classes below the label))

    Source: Sun, Chen, Wang, Ye, Li, Ma, "Knowledge Distillation with Refined Logits", 2024, arXiv:2408.07703.
    """

    name = "rld"
    category = "response"
    groups = ("logits", "modern")
    taps = ("logits",)
    takes = "logits"
    needs = ("labels",)
    presets: ClassVar = {"cifar100": {"alpha": 1.0, "beta": 8.0, "temperature": 4.0}}

    class Options(Distiller.Options):
        """Options of refined logits."""

        alpha: float = Field(1.0, ge=0)
        """Weight of the term of the confidence."""
        beta: float = Field(8.0, ge=0)
        """Weight of the term of the classes below the label."""
        temperature: float = Field(4.0, gt=0)
        """Temperature T of the classes below the label."""
        warmup_epochs: float = Field(20.0, ge=0)
        """Epochs over which the weight rises linearly; 0 starts with all of it."""
        warmup_share: float = Field(1 / 12, ge=0, le=1)
        """Most of the run that the rise may take; 1/12 are the published 20 epochs of 240."""

    options: Options

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The terms ``confidence`` and ``ranking``, each the sum over all taps."""
        temperature, ramp = self.options.temperature, warmup(step, self.options.warmup_epochs, self.options.warmup_share)
        confidences = [confidence_loss(tap.student, tap.teacher, step.classes) for tap in step.pairs]
        rankings = [masked_loss(tap.student, tap.teacher, step.classes, temperature) for tap in step.pairs]
        return {
            "confidence": ramp * self.options.alpha * torch.stack(confidences).sum(),
            "ranking": ramp * self.options.beta * temperature**2 * torch.stack(rankings).sum(),
        }


@hookimpl
def kdengine_register(registry: Registrar) -> None:
    """Offer the method."""
    registry.distiller(RLD)
