"""Curriculum temperature: soft targets whose temperature is learned against the student, gently at first."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdengine import Distiller, Pair, Registrar, Step, hookimpl

__all__ = ["CTKD", "GlobalTemperature", "InstanceTemperature", "reversal", "reverse_gradient", "soft_target_loss"]

# B: images of a batch, K: classes.

START = 1.0
"""What the learned number begins at: with the default range, the temperature begins at 1 + 20 sigmoid(1) = 15.6."""


def reverse_gradient(x: Tensor, strength: float) -> Tensor:
    """The same values; the gradient is multiplied by -strength on its way back."""
    return x.detach() - strength * (x - x.detach())


def reversal(epoch: int, epochs: int) -> float:
    """Strength of the reversed gradient, which rises to 1 on half a cosine: (1 - cos(pi n / N)) / 2 in the n-th epoch.

    Args:
        epoch: epoch from 0.
        epochs: N, the epoch with the full strength; 0 has it from the start.
    """
    if epoch + 1 >= epochs:
        return 1.0
    return (1 - math.cos(math.pi * (epoch + 1) / epochs)) / 2


def soft_target_loss(student_BK: Tensor, teacher_BK: Tensor, temperature_B1: Tensor) -> Tensor:
    """Mean over the batch of T^2 KL(softmax(teacher / T) || softmax(student / T)); [].

    Args:
        student_BK: logits of the student, [B, K].
        teacher_BK: logits of the teacher, [B, K].
        temperature_B1: T > 0 of each image, [B, 1], or of all, [1, 1]; it gets a gradient, through the factor T^2, too.
    """
    log_q_BK, log_p_BK = (F.log_softmax(logits / temperature_B1, dim=1) for logits in (student_BK, teacher_BK))
    divergence_B1 = F.kl_div(log_q_BK, log_p_BK, reduction="none", log_target=True).sum(1, keepdim=True)
    return (temperature_B1.square() * divergence_B1).mean()


class GlobalTemperature(nn.Module):
    """One learned number for all images."""

    def __init__(self) -> None:
        super().__init__()
        self.number = nn.Parameter(torch.full((1, 1), START))

    def forward(self, student_BK: Tensor, teacher_BK: Tensor) -> Tensor:
        """The number, [1, 1]."""
        return self.number


class InstanceTemperature(nn.Module):
    """A number for each image, from the probabilities of both networks, by two layers.

    Args:
        classes: number of classes K.
        hidden: width of the first layer.
    """

    def __init__(self, classes: int, hidden: int) -> None:
        super().__init__()
        last = nn.Linear(hidden, 1)
        nn.init.constant_(last.bias, START)
        self.layers = nn.Sequential(nn.Linear(2 * classes, hidden), nn.ReLU(), last)

    def forward(self, student_BK: Tensor, teacher_BK: Tensor) -> Tensor:
        """The numbers, [B, 1]; the student gets no gradient here, which would reward it for outputs that are hard to match."""
        numbers_B1: Tensor = self.layers(torch.cat([student_BK.detach().softmax(1), teacher_BK.softmax(1)], dim=1))
        return numbers_B1


class CTKD(Distiller):
    """Curriculum temperature: soft targets at a learned temperature that tries to make the loss larger.

    (1 - alpha) CE(z_s, y) + alpha T^2 KL(softmax(z_t / T) || softmax(z_s / T)), T = lowest + width * sigmoid(learned)

    Source: Li, Li, Yang, Zhao, Song, Luo, Li, Yang, "Curriculum Temperature for Knowledge Distillation", AAAI 2023,
    arXiv:2211.16231.
    """

    name = "ctkd"
    category = "response"
    groups = ("logits", "modern")
    taps = ("logits",)
    takes = "logits"

    class Options(Distiller.Options):
        """Options of curriculum temperature."""

        alpha: float = Field(0.9, ge=0)
        """Weight of the soft term."""
        task: float | None = Field(None, ge=0)
        """Weight of the cross-entropy with the labels; 1 - alpha if omitted."""
        mode: Literal["global", "instance"] = "global"
        """One temperature for all images, or one for each image from the outputs of both networks."""
        lowest: float = Field(1.0, gt=0)
        """Lowest temperature."""
        width: float = Field(20.0, ge=0)
        """How far the temperature may rise above the lowest."""
        loops: int = Field(10, ge=0)
        """Epochs until the temperature learns at its full rate."""
        strength: float = Field(1.0, ge=0)
        """Factor on the reversed gradient of the temperature, at its full rate."""
        hidden: int = Field(128, ge=1)
        """Width of the hidden layer in mode 'instance'."""

        def model_post_init(self, context: Any) -> None:
            """Refuse a negative weight of the task loss."""
            if self.task is None and self.alpha > 1:
                raise ValueError("alpha above 1 needs 'task', the weight of the cross-entropy with the labels")

    options: Options
    learned: nn.ModuleList

    @property
    def task_weight(self) -> float:
        """1 - alpha, or as given."""
        return 1.0 - self.options.alpha if self.options.task is None else self.options.task

    def build(self, pair: Pair) -> None:
        """Create what the temperature of each tap is learned from."""
        self.learned = nn.ModuleList(
            GlobalTemperature()
            if self.options.mode == "global"
            else InstanceTemperature(tap.student.shape[1], self.options.hidden)
            for tap in pair.pairs
        )

    def temperatures(self, step: Step) -> list[Tensor]:
        """The temperature at each tap, [1, 1] or [B, 1], with a reversed gradient."""
        strength = self.options.strength * reversal(step.epoch, self.options.loops)
        numbers = [learned(tap.student, tap.teacher) for learned, tap in zip(self.learned, step.pairs, strict=True)]
        return [self.options.lowest + self.options.width * reverse_gradient(each, strength).sigmoid() for each in numbers]

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The term ``soft``, the sum over all taps."""
        losses = [
            soft_target_loss(tap.student, tap.teacher, temperature)
            for tap, temperature in zip(step.pairs, self.temperatures(step), strict=True)
        ]
        return {"soft": self.options.alpha * torch.stack(losses).sum()}


@hookimpl
def kdengine_register(registry: Registrar) -> None:
    """Offer the method."""
    registry.distiller(CTKD)
