"""Attention transfer: the student learns where the teacher's feature maps are active."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from kdengine import Distiller, Registrar, Step, hookimpl, match_spatial

__all__ = ["AttentionTransfer", "attention_loss", "attention_map"]


def attention_map(features_BCHW: Tensor, power: float = 2.0) -> Tensor:
    """Mean over channels of |F|^p, flattened and scaled to unit length per image: [B, C, H, W] -> [B, H W]."""
    return F.normalize(_mean_power(features_BCHW, power).flatten(1), dim=1)


def _mean_power(features_BCHW: Tensor, power: float) -> Tensor:
    if power == 2:
        mean_BHW: Tensor = _MeanSquare.apply(features_BCHW)
        return mean_BHW
    return features_BCHW.abs().pow(power).mean(1)


class _MeanSquare(torch.autograd.Function):
    """Mean over channels of F^2, with a gradient in one pass over the maps; autograd takes five for abs, pow and mean."""

    @staticmethod
    def forward(ctx: Any, features_BCHW: Tensor) -> Tensor:
        ctx.save_for_backward(features_BCHW)
        squared_BHW: Tensor = torch.linalg.vecdot(features_BCHW, features_BCHW, dim=1)
        return squared_BHW / features_BCHW.shape[1]

    @staticmethod
    def backward(ctx: Any, by_mean_BHW: Tensor) -> Tensor:
        (features_BCHW,) = ctx.saved_tensors
        gradient_BCHW: Tensor = features_BCHW * (by_mean_BHW * (2 / features_BCHW.shape[1])).unsqueeze(1)
        return gradient_BCHW


def attention_loss(student_BCHW: Tensor, teacher_BCHW: Tensor, power: float = 2.0) -> Tensor:
    """Mean squared difference of the attention maps of two networks, over batch and positions; [].

    Where the sizes differ, the larger maps are average-pooled to the smaller size first. B: batch, C: channels (may differ).
    """
    student_BCHW, teacher_BCHW = match_spatial(student_BCHW, teacher_BCHW)
    return F.mse_loss(attention_map(student_BCHW, power), attention_map(teacher_BCHW, power))


class AttentionTransfer(Distiller):
    """Attention transfer: match the normalised spatial energy of the feature maps at the end of every stage.

    beta sum_i mean (Q_s,i - Q_t,i)^2, Q = vec(mean_C |F|^p) scaled to length 1

    Source: Zagoruyko, Komodakis, "Paying More Attention to Attention: Improving the Performance of Convolutional
    Neural Networks via Attention Transfer", ICLR 2017, arXiv:1612.03928; scale as in the authors' code.
    """

    name = "at"
    category = "multi-connection"
    groups = ("maps", "classic")
    taps = ("stages",)
    takes = "maps"
    presets: ClassVar = {"sseung": {"half": True}}

    class Options(Distiller.Options):
        """Options of attention transfer."""

        beta: float = Field(1000.0, ge=0)
        """Weight of the sum over stages."""
        power: float = Field(2.0, ge=1)
        """Exponent p of the activations; below 1 it would have no gradient at zero."""
        half: bool = False
        """Halve the loss, as in the paper's formula."""

    options: Options

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The term ``attention``, the sum over all taps."""
        losses = [attention_loss(tap.student, tap.teacher, self.options.power) for tap in step.pairs]
        scale = self.options.beta * (0.5 if self.options.half else 1.0)
        return {"attention": scale * torch.stack(losses).sum()}


@hookimpl
def kdengine_register(registry: Registrar) -> None:
    """Offer the method."""
    registry.distiller(AttentionTransfer)
