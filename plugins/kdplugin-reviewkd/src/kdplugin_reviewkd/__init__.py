"""Knowledge review: every level of the student, joined by all deeper ones, learns a level of the teacher."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdengine import Distiller, Pair, Registrar, Step, TapError, TapPair, hookimpl, warmup
from kdplugin_reviewkd.fusion import Fusion

__all__ = ["Fusion", "ReviewKD", "context_loss"]

GRIDS = (4, 2, 1)
"""Sides of the grids on which the maps are compared, beside their own size."""


def context_loss(student_BCHW: Tensor, teacher_BCHW: Tensor) -> Tensor:
    """Hierarchical context loss of two maps of equal shape; [].

    The mean squared difference of the maps, and of their averages on grids of 4 x 4, 2 x 2 and 1 x 1, weighed 1, 1/2, 1/4
    and 1/8 and divided by the sum of the weights. Grids that are not smaller than the map are left out, and halve nothing.

    Args:
        student_BCHW: the prediction of the teacher's map, [B, C, H, W].
        teacher_BCHW: the teacher's map, [B, C, H, W].
    """
    # averaging is linear: the average of the difference stands for the difference of the averages, at half the work
    coarse = difference = student_BCHW - teacher_BCHW
    total, weight, weights = difference.square().mean(), 1.0, 1.0
    sides = difference.shape[2:]
    nested = all(side % GRIDS[0] == 0 for side in sides)  # then each grid is an average of the finer one
    for grid in GRIDS:
        if grid < min(sides):
            coarse = F.adaptive_avg_pool2d(coarse if nested else difference, grid)
            weight /= 2
            weights += weight
            total = total + weight * coarse.square().mean()
    return total / weights


class ReviewKD(Distiller):
    """Knowledge review: fuse the student's maps from deep to shallow, and match the teacher's at every level.

    beta ramp sum_l HCL(out_l, t_l)

    Source: Chen, Liu, Zhao, Jia, "Distilling Knowledge via Knowledge Review", CVPR 2021, arXiv:2104.09044; weights and
    ramp as in the authors' code.
    """

    name = "reviewkd"
    category = "multi-connection"
    groups: ClassVar = ("maps", "modern")
    taps = ("stages=stages.pre", "embedding")
    takes = "features"
    presets: ClassVar = {
        "resnet8x4": {"beta": 5.0},
        "wrn_16_2": {"beta": 5.0},
        "wrn_40_1": {"beta": 5.0},
        "shufflenetv1": {"beta": 5.0},
        "shufflenetv2": {"beta": 8.0},
        "resnet20": {"beta": 0.6},
        "resnet32": {"beta": 1.0},
    }

    class Options(Distiller.Options):
        """Options of knowledge review."""

        beta: float = Field(5.0, ge=0)
        """Weight of the sum over levels."""
        middle: int | None = Field(None, ge=1)
        """Channels in which the levels are fused; by default those of the student's deepest tap, at most 512."""
        warmup_epochs: float = Field(20.0, ge=0)
        """Epochs over which the weight rises linearly; 0 starts with all of it."""
        warmup_share: float = Field(1 / 12, ge=0, le=1)
        """Most of the run that the rise may take; 1/12 are the published 20 epochs of 240."""

    options: Options

    def build(self, pair: Pair) -> None:
        """One fusion per level, deepest first."""
        levels = [self._level(tap) for tap in reversed(pair.pairs)]
        middle = self.options.middle or min(512, levels[0][0].shape[1])
        self.fusions = nn.ModuleList(
            Fusion(student.shape[1], middle, teacher.shape[1], teacher.shape[2:], deepest=number == 0)
            for number, (student, teacher) in enumerate(levels)
        )

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The term ``review``, the sum over all levels."""
        losses: list[Tensor] = []
        residual: Tensor | None = None
        for fusion, tap in zip(self.fusions, reversed(step.pairs), strict=True):
            student, teacher = self._level(tap)
            with step.precision():  # the fusion is a network as large as the student
                predicted, residual = fusion(student, residual)
            losses.append(context_loss(predicted.float(), teacher))
        return {
            "review": self.options.beta
            * warmup(step, self.options.warmup_epochs, self.options.warmup_share)
            * torch.stack(losses).sum()
        }

    def _level(self, tap: TapPair) -> tuple[Tensor, Tensor]:
        """Both tensors of a tap as maps; a vector is a map of one position."""
        if 3 in (tap.student.ndim, tap.teacher.ndim):
            raise TapError(
                f"{self.name}: at '{tap.name}' the student has {list(tap.student.shape)} and the teacher "
                f"{list(tap.teacher.shape)}, but the method fuses maps [B, C, H, W] and vectors [B, D]. Name the stage "
                "of a transformer, such as 'stage2', rather than a module that returns tokens."
            )
        return _as_map(tap.student), _as_map(tap.teacher)


def _as_map(features: Tensor) -> Tensor:
    return features[:, :, None, None] if features.ndim == 2 else features


@hookimpl
def kdengine_register(registry: Registrar) -> None:
    """Offer the method."""
    registry.distiller(ReviewKD)
