"""Variational information distillation: the student's features must tell as much as possible about the teacher's."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdengine import Distiller, Pair, Registrar, Step, TapPair, hookimpl, match_spatial

__all__ = ["VID", "Gaussian", "negative_log_likelihood"]

SMALLEST = 1e-5
"""Smallest variance of a channel."""


def negative_log_likelihood(mean_BCHW: Tensor, variance_C: Tensor, teacher_BCHW: Tensor) -> Tensor:
    """-log N(t; mean, variance) without its constant, 1/2 [(t - mean)^2 / variance + log variance], mean over all values; [].

    Args:
        mean_BCHW: the predicted mean of every value of the teacher's map, [B, C, H, W].
        variance_C: the variance of every channel, greater than 0, [C].
        teacher_BCHW: the teacher's map, [B, C, H, W].
    """
    error_C = (teacher_BCHW - mean_BCHW).square().mean((0, 2, 3))
    return 0.5 * (error_C / variance_C + variance_C.log()).mean()


class Gaussian(nn.Module):
    """q(t | s): a normal distribution of the teacher's map given the student's, with one variance per channel.

    The mean is computed by three 1x1 convolutions with ReLUs between them. The variance is softplus(a_c) + 1e-5, where the
    a_c are trained like any other weight.

    Args:
        in_channels: channels of the student's map.
        out_channels: channels C of the teacher's.
        variance: the variance of every channel at the start, greater than 1e-5.
    """

    def __init__(self, in_channels: int, out_channels: int, variance: float) -> None:
        super().__init__()
        self.mean = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 1, bias=False),
        )
        above = variance - SMALLEST
        # the inverse of softplus; log(exp(v) - 1) would overflow for a large v
        self.spread = nn.Parameter(torch.full((out_channels,), above + math.log(-math.expm1(-above))))

    @property
    def variance_C(self) -> Tensor:
        """The variance of every channel, [C]."""
        return F.softplus(self.spread) + SMALLEST

    def forward(self, student_BDHW: Tensor) -> tuple[Tensor, Tensor]:
        """The student's map [B, D, H, W] -> mean of the teacher's, [B, C, H, W], and variance of its channels, [C]."""
        return self.mean(student_BDHW), self.variance_C


class VID(Distiller):
    """Variational information distillation: maximise a lower bound of the information that both networks' maps share.

    sum_i mean 1/2 [(t - mu(s))^2 / sigma_c^2 + log sigma_c^2]

    Source: Ahn, Hu, Damianou, Lawrence, Dai, "Variational Information Distillation for Knowledge Transfer", CVPR 2019,
    arXiv:1904.05835.
    """

    name = "vid"
    category = "multi-connection"
    groups: ClassVar = ("maps", "classic")
    taps = ("stages",)
    takes = "maps"

    class Options(Distiller.Options):
        """Options of variational information distillation."""

        init_variance: float = Field(5.0, ge=1e-3)
        """Variance of every channel at the start."""

    options: Options

    def build(self, pair: Pair) -> None:
        """One distribution per tap."""
        self.likelihoods = nn.ModuleList(
            Gaussian(tap.student.shape[1], tap.teacher.shape[1], self.options.init_variance) for tap in pair.pairs
        )

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The term ``likelihood``, the sum over all taps."""
        losses = [self._loss(step, likelihood, tap) for likelihood, tap in zip(self.likelihoods, step.pairs, strict=True)]
        return {"likelihood": torch.stack(losses).sum()}

    def _loss(self, step: Step, likelihood: nn.Module, tap: TapPair) -> Tensor:
        """Where the sizes differ, the larger map is average-pooled to the smaller size first."""
        student_BDHW, teacher_BCHW = match_spatial(tap.student, tap.teacher)
        with step.precision():
            mean_BCHW, variance_C = likelihood(student_BDHW)
        return negative_log_likelihood(mean_BCHW.float(), variance_C.float(), teacher_BCHW)


@hookimpl
def kdengine_register(registry: Registrar) -> None:
    """Offer the method."""
    registry.distiller(VID)
