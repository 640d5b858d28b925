"""Soft targets: the student learns the teacher's softened class probabilities."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from kdengine import Distiller, Pair, Registrar, SettingsError, Step, hookimpl, match_spatial

__all__ = ["SoftTargets", "soft_label_loss", "soft_target_loss"]


def soft_target_loss(student_BK: Tensor, teacher_BK: Tensor, temperature: float, soft_term: str = "kl") -> Tensor:
    """Mean over the batch of KL(p || q), or of the cross-entropy H(p, q), at a temperature.

    p = softmax(teacher / T), q = softmax(student / T). B: batch, K: classes.

    Args:
        student_BK: logits of the student, [B, K].
        teacher_BK: logits of the teacher, [B, K].
        temperature: T > 0, dimensionless.
        soft_term: ``"kl"`` or ``"ce"``; they differ by the teacher's entropy, which has no gradient.

    Returns:
        A scalar [], without the factor T^2.
    """
    log_q_BK = F.log_softmax(student_BK / temperature, dim=1)
    p_BK = F.softmax(teacher_BK / temperature, dim=1)
    if soft_term == "ce":
        return -(p_BK * log_q_BK).sum(1).mean()
    return F.kl_div(log_q_BK, p_BK, reduction="batchmean")


def soft_label_loss(student_BK: Tensor, teacher_BK: Tensor, temperature: float, soft_term: str = "kl") -> Tensor:
    """The same for independent labels: mean over images and labels of KL(p || q), or of H(p, q), of one label's odds.

    p = sigmoid(teacher / T), q = sigmoid(student / T), each the probability of a label. B: batch, K: labels.

    Args:
        student_BK: logits of the student, [B, K].
        teacher_BK: logits of the teacher, [B, K].
        temperature: T > 0, dimensionless.
        soft_term: ``"kl"`` or ``"ce"``; they differ by the teacher's entropy, which has no gradient.

    Returns:
        A scalar [], without the factor T^2.
    """
    p_BK = torch.sigmoid(teacher_BK / temperature)
    loss = F.binary_cross_entropy_with_logits(student_BK / temperature, p_BK)
    return loss if soft_term == "ce" else loss - F.binary_cross_entropy_with_logits(teacher_BK / temperature, p_BK)


class SoftTargets(Distiller):
    """Soft targets: cross-entropy with the labels, and KL divergence from the teacher's softened probabilities.

    (1 - alpha) CE(z_s, y) + alpha T^2 KL(softmax(z_t / T) || softmax(z_s / T))

    For independent labels, sigmoids take the place of the softmaxes, and the divergence is that of each label's odds. Of
    segmentation, it is the mean over all pixels.

    Source: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, arXiv:1503.02531.
    """

    name = "st"
    category = "response"
    groups = ("logits", "classic")
    taps = ("logits",)
    takes = "logits"
    serves = ("classes", "labels", "pixels")
    outputs = "classes"
    """What the logits are; for ``labels``, each has a sigmoid of its own, and for ``pixels``, each position counts alike."""
    presets: ClassVar = {
        "sseung": {"alpha": 0.3, "temperature": 3.0, "t_squared": False},
        "tootouch": {"alpha": 0.9, "temperature": 5.0, "t_squared": False, "soft_term": "ce"},
        "motakuss": {"alpha": 1.0, "task": 1.0, "temperature": 10.0, "t_squared": False, "hard_temperature": True},
    }

    defaults: ClassVar = {"pixels": {"alpha": 1.0, "task": 1.0, "temperature": 1.0}}

    class Options(Distiller.Options):
        """Options of soft targets."""

        alpha: float = Field(0.9, ge=0)
        """Weight of the soft term."""
        temperature: float = Field(4.0, gt=0)
        """Temperature T of both softmaxes."""
        t_squared: bool = True
        """Multiply the soft term by T^2, so that its gradient does not shrink as T grows."""
        soft_term: Literal["kl", "ce"] = "kl"
        """KL divergence, or cross-entropy with soft labels; the gradients are the same."""
        task: float | None = Field(None, ge=0)
        """Weight of the cross-entropy with the labels; 1 - alpha if omitted."""
        hard_temperature: bool = False
        """Divide the logits by T in the cross-entropy with the labels too."""

        def model_post_init(self, context: Any) -> None:
            """Refuse a negative weight of the task loss."""
            if self.task is None and self.alpha > 1:
                raise ValueError("alpha above 1 needs 'task', the weight of the cross-entropy with the labels")

    options: Options

    @property
    def hard_weight(self) -> float:
        """Weight of the cross-entropy with the labels."""
        return 1.0 - self.options.alpha if self.options.task is None else self.options.task

    @property
    def task_weight(self) -> float:
        """The hard weight, unless the method computes a tempered cross-entropy of its own."""
        return 0.0 if self.options.hard_temperature else self.hard_weight

    def build(self, pair: Pair) -> None:
        """Look at what the logits are.

        Raises:
            SettingsError: a preset for classes is asked of labels.
        """
        self.outputs = pair.outputs
        if self.options.hard_temperature and self.outputs != "classes":
            raise SettingsError(
                f"st.hard_temperature is a cross-entropy of classes, but the outputs here are {self.outputs}. Leave it out."
            )

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The term ``soft``, and ``hard`` where the cross-entropy with the labels is tempered too."""
        temperature, soft_term = self.options.temperature, self.options.soft_term
        factor = self.options.alpha * (temperature**2 if self.options.t_squared else 1.0)
        loss = soft_label_loss if self.outputs == "labels" else soft_target_loss
        sides = [(tap.student, tap.teacher) for tap in step.pairs]
        if self.outputs == "pixels":
            matched = [match_spatial(*maps) for maps in sides]
            sides = [(_by_position(student), _by_position(teacher)) for student, teacher in matched]
        losses = [loss(student, teacher, temperature, soft_term) for student, teacher in sides]
        terms = {"soft": factor * torch.stack(losses).sum()}
        if self.options.hard_temperature:
            terms["hard"] = self.hard_weight * F.cross_entropy(step.student.logits / temperature, step.y)
        return terms


def _by_position(logits_BKHW: Tensor) -> Tensor:
    """Logits of all positions [B, K, H, W] as one batch, [B H W, K]."""
    return logits_BKHW.movedim(1, -1).flatten(0, 2)


@hookimpl
def kdengine_register(registry: Registrar) -> None:
    """Offer the method."""
    registry.distiller(SoftTargets)
