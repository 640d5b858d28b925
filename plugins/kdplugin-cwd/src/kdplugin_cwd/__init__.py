"""Channel-wise distillation: each channel of the student learns where that channel of the teacher is active."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdengine import Distiller, Pair, Registrar, Step, TapPair, hookimpl, match_spatial

__all__ = ["CWD", "channel_loss"]


def channel_loss(student_BCHW: Tensor, teacher_BCHW: Tensor, temperature: float = 1.0) -> Tensor:
    """KL divergence of the distributions that each channel makes of its positions; mean over batch and channels; [].

    Scaled by the square of the temperature. Where the sizes differ, the larger maps are average-pooled to the smaller size
    first. A map of one position has one distribution only, and costs nothing.

    Args:
        student_BCHW: maps or dense outputs of the student, [B, C, H, W].
        teacher_BCHW: the teacher's, [B, C, H', W'].
        temperature: divides the activations; above 1, more positions count.
    """
    pooled = match_spatial(student_BCHW, teacher_BCHW)
    q_BCN, p_BCN = (F.log_softmax(maps.flatten(2) / temperature, 2) for maps in pooled)
    channels = q_BCN.shape[0] * q_BCN.shape[1]
    return F.kl_div(q_BCN, p_BCN, reduction="sum", log_target=True) * (temperature**2 / channels)


class CWD(Distiller):
    """Channel-wise distillation: match the distribution over positions that each channel of a map makes.

    beta tau^2 / (B C) sum_{b, c} KL(softmax_hw(t / tau) || softmax_hw(s / tau))

    Source: Shu, Liu, Gao, Yan, Shen, "Channel-wise Knowledge Distillation for Dense Prediction", ICCV 2021,
    arXiv:2011.13256.
    """

    name = "cwd"
    category = "multi-connection"
    groups: ClassVar = ("maps", "modern")
    taps = ("stage-1",)
    takes = "maps"
    serves = ("classes", "pixels")
    presets: ClassVar = {
        "detection": {"beta": 10.0, "temperature": 1.0},
        "segmentation": {"taps": ("logits",), "beta": 5.0, "temperature": 1.0},
    }

    class Options(Distiller.Options):
        """Options of channel-wise distillation."""

        beta: float = Field(10.0, ge=0)
        """Weight of the sum over taps."""
        temperature: float = Field(1.0, gt=0)
        """Temperature tau of the distributions; above 1, more positions count."""

    options: Options

    def build(self, pair: Pair) -> None:
        """A 1x1 convolution per tap where the widths differ, else an identity."""
        self.connectors = nn.ModuleList(_connector(tap) for tap in pair.pairs)

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The term ``channels``, the sum over all taps."""
        losses = [
            channel_loss(connector(tap.student), tap.teacher, self.options.temperature)
            for connector, tap in zip(self.connectors, step.pairs, strict=True)
        ]
        return {"channels": self.options.beta * torch.stack(losses).sum()}


def _connector(tap: TapPair) -> nn.Module:
    ours, theirs = tap.student.shape[1], tap.teacher.shape[1]
    return nn.Identity() if ours == theirs else nn.Conv2d(ours, theirs, 1)


@hookimpl
def kdengine_register(registry: Registrar) -> None:
    """Offer the method."""
    registry.distiller(CWD)
