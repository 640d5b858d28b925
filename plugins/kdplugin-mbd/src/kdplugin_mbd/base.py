"""What the merit-based methods share: cross-entropy and divergence per image, weighted by the teacher's merit."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from kdengine import Distiller, Step

__all__ = ["MeritBased", "correct", "merit_loss"]

# B: images of a batch, K: classes.


def correct(teacher_BK: Tensor, labels_B: Tensor) -> Tensor:
    """1 for the images that the teacher classifies as labelled, 0 for the others.

    Args:
        teacher_BK: logits of the teacher, [B, K].
        labels_B: class indices, [B].

    Returns:
        [B], of the logits' type.
    """
    return (teacher_BK.argmax(1) == labels_B).to(teacher_BK.dtype)


def merit_loss(
    student_BK: Tensor,
    teacher_BK: Tensor,
    labels_B: Tensor,
    merit_B: Tensor,
    temperature: float = 1.0,
    double_temperature: bool = False,
    hard_temperature: bool = False,
) -> tuple[Tensor, Tensor]:
    """Mean over the batch of (1 - m) CE, and of m T^2 KL: two scalars [], whose sum is the loss.

    CE(z_s, y), KL(softmax(z_t / T) || softmax(z_s / T)).

    Args:
        student_BK: logits z_s of the student, [B, K].
        teacher_BK: logits z_t of the teacher, [B, K]; they get no gradient.
        labels_B: class indices y, [B].
        merit_B: weight m of the teacher for each image, in [0, 1], [B]; it gets no gradient.
        temperature: T > 0, dimensionless.
        double_temperature: whether the logits in KL are divided by T^2 instead.
        hard_temperature: whether the logits in CE are divided by T.

    Source: motakuss/Knowledge-Distillation-Technique, 2023, which has both of them on.
    """
    merit_B, hotter = merit_B.detach(), temperature**2 if double_temperature else temperature
    log_q_BK, p_BK = F.log_softmax(student_BK / hotter, dim=1), F.softmax(teacher_BK.detach() / hotter, dim=1)
    divergence_B = F.kl_div(log_q_BK, p_BK, reduction="none").sum(1)
    entropy_B = F.cross_entropy(student_BK / temperature if hard_temperature else student_BK, labels_B, reduction="none")
    return ((1 - merit_B) * entropy_B).mean(), temperature**2 * (merit_B * divergence_B).mean()


class MeritBased(Distiller):
    """Base of the methods, each of which defines the teacher's merit."""

    category = "response"
    groups = ("logits", "modern")
    taps = ("logits",)
    takes = "logits"
    needs = ("hard_labels",)
    presets: ClassVar = {"motakuss": {"double_temperature": True, "hard_temperature": True}}

    class Options(Distiller.Options):
        """Options of all merit-based methods."""

        temperature: float = Field(1.0, gt=0)
        """Temperature T of the teacher's and the student's probabilities."""
        double_temperature: bool = False
        """Divide the logits in the divergence by T twice."""
        hard_temperature: bool = False
        """Divide the logits by T in the cross-entropy with the labels too."""

    options: Options

    @property
    def task_weight(self) -> float:
        """Zero: the method computes a cross-entropy of its own, weighted image by image."""
        return 0.0

    @abstractmethod
    def merit(self, teacher_BK: Tensor, labels_B: Tensor) -> Tensor:
        """How much to mimic the teacher on each image, from 0 to 1.

        Args:
            teacher_BK: logits of the teacher as they are, [B, K].
            labels_B: class indices, [B].

        Returns:
            [B].
        """

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The terms ``hard``, cross-entropy with the labels, and ``soft``, divergence from the teacher."""
        options = self.options
        flags = options.temperature, options.double_temperature, options.hard_temperature
        losses = [merit_loss(tap.student, tap.teacher, step.y, self.merit(tap.teacher, step.y), *flags) for tap in step.pairs]
        hard, soft = (torch.stack(terms).sum() for terms in zip(*losses, strict=True))
        return {"hard": hard, "soft": soft}
