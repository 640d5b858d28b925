"""Semantic calibration: every level of the student learns from all levels of the teacher, weighed by attention."""

from __future__ import annotations

from itertools import product
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from kdengine import Distiller, Pair, Registrar, Step, hookimpl, match_spatial
from kdplugin_semckd.attention import Attention
from kdplugin_semckd.regressor import regressor

__all__ = ["Attention", "SemCKD", "calibration_loss"]

# B: images of a batch, S and T: levels of student and teacher.


def calibration_loss(errors_BST: Tensor, attention_BST: Tensor) -> Tensor:
    """Errors of all pairs of levels, weighed by the attention: summed over T, mean over images and the student's levels; [].

    Args:
        errors_BST: mean squared difference of every pair of levels for every image, [B, S, T].
        attention_BST: weights that sum to 1 over T, [B, S, T].
    """
    return (attention_BST * errors_BST).sum(2).mean()


class SemCKD(Distiller):
    """Cross-layer distillation with semantic calibration: attention decides which levels of the teacher teach a level.

    beta mean_b,i sum_j alpha_bij mean (R_ij(s_i) - t_j)^2

    Source: Chen, Mei, Zhang, Wang, Wang, Feng, Chen, "Cross-Layer Distillation with Semantic Calibration", AAAI 2021,
    arXiv:2012.03236; the presets have the weights of the authors' code.
    """

    name = "semckd"
    category = "multi-connection"
    groups: ClassVar = ("maps", "modern")
    taps = ("stages",)
    takes = "maps"
    presets: ClassVar = {"cifar100": {"beta": 400.0}, "imagenet": {"beta": 50.0}}

    class Options(Distiller.Options):
        """Options of semantic calibration."""

        beta: float = Field(40.0, ge=0)
        """Weight of the loss."""
        slots: int = Field(64, ge=4)
        """Columns into which the similarities of an image to the batch are folded; the authors' code fixes the batch size."""
        regressor: Literal["bottleneck", "linear"] = "bottleneck"
        """Three convolutions for every pair of levels, as published, or one of 1x1, which costs far less."""

    options: Options

    def build(self, pair: Pair) -> None:
        """The attention, and a regressor for every pair of a level of the student and one of the teacher."""
        pairs = pair.pairs
        self.attention = Attention(len(pairs), len(pairs), self.options.slots)
        self.regressors = nn.ModuleList(
            regressor(here.student.shape[1], there.teacher.shape[1], self.options.regressor)
            for here, there in product(pairs, pairs)
        )

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The term ``calibration``."""
        pairs = step.pairs
        students, teachers = [tap.student for tap in pairs], [tap.teacher for tap in pairs]
        attention_BST = self.attention(students, teachers)
        every = zip(self.regressors, product(students, teachers), strict=True)
        errors_BN = torch.stack([self._error(step, regress, *maps) for regress, maps in every], 1)
        errors_BST = errors_BN.unflatten(1, (len(students), len(teachers)))
        return {"calibration": self.options.beta * calibration_loss(errors_BST, attention_BST)}

    def _error(self, step: Step, regress: nn.Module, student_BCHW: Tensor, teacher_BDHW: Tensor) -> Tensor:
        """Mean squared difference for every image, [B]; the larger map is average-pooled to the smaller size first."""
        student_BCHW, teacher_BDHW = match_spatial(student_BCHW, teacher_BDHW)
        with step.precision():
            predicted_BDHW: Tensor = regress(student_BCHW)
        return (predicted_BDHW.float() - teacher_BDHW).square().mean((1, 2, 3))


@hookimpl
def kdengine_register(registry: Registrar) -> None:
    """Offer the method."""
    registry.distiller(SemCKD)
