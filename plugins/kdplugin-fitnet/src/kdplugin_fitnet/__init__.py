"""FitNets: a hint from the middle of the teacher guides the middle of the student."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdengine import Distiller, Pair, Phase, Registrar, Step, TapPair, hookimpl
from kdplugin_fitnet.regressor import Regressor

__all__ = ["FitNet", "Regressor", "hint_loss"]


def hint_loss(student_BCHW: Tensor, teacher_BCHW: Tensor, reduction: str = "mean") -> Tensor:
    """Squared difference of two maps of equal shape; [].

    Args:
        student_BCHW: the student's map after the regressor, [B, C, H, W].
        teacher_BCHW: the teacher's map, [B, C, H, W].
        reduction: ``"mean"`` over all elements, or ``"sum_chw"``: summed over an image, mean over the batch.
    """
    if reduction == "mean":
        return F.mse_loss(student_BCHW, teacher_BCHW)
    return F.mse_loss(student_BCHW, teacher_BCHW, reduction="sum") / len(student_BCHW)


class FitNet(Distiller):
    """FitNets: first learn to predict a feature map of the teacher, then learn the task.

    Source: Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015, arXiv:1412.6550.
    """

    name = "fitnet"
    category = "multi-connection"
    groups = ("maps", "classic")
    taps = ("stage2",)
    takes = "maps"
    presets: ClassVar = {
        "sseung": {"side": "teacher", "taps": ("stage2", "stage3")},
        "bhheo": {"side": "teacher", "taps": ("stages",), "reduction": "sum_chw"},
        "motakuss": {"kernel": 3, "hint_epochs": 1.0},
        "repdistiller": {"mode": "joint", "weight": 100.0},
    }

    class Options(Distiller.Options):
        """Options of FitNets."""

        mode: Literal["two_phase", "joint"] = "two_phase"
        """Hints before the task, or together with it."""
        hint_epochs: int | float = Field(0.4, ge=0)
        """Epochs of the hint phase in mode 'two_phase': 40 is a number of epochs, 0.4 and 1.0 are shares of the run's own."""
        side: Literal["student", "teacher"] = "student"
        """Whose map the regressor transforms; on the teacher's side it is a linear map, only where the widths differ."""
        reduction: Literal["mean", "sum_chw"] = "mean"
        """Mean over all elements, or sum over an image and mean over the batch."""
        kernel: Literal[1, 3, 5] = 1
        """Kernel size of the student-side regressor between maps of equal size."""

    options: Options

    def build(self, pair: Pair) -> None:
        """One regressor per tap."""
        self.regressors = nn.ModuleList(self._regressor(tap) for tap in pair.pairs)

    def phases(self) -> Sequence[Phase]:
        """The phase ``hint``, before the joint one, or none."""
        return () if self.options.mode == "joint" else (Phase("hint", epochs=self.options.hint_epochs),)

    def taps_in(self, phase: str) -> Sequence[str] | None:
        """The taps are read in the hint phase, or in the joint one."""
        return super().taps_in(phase) if phase == "hint" or self.options.mode == "joint" else None

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The term ``hint``, the sum over all taps."""
        losses = []
        for regressor, tap in zip(self.regressors, step.pairs, strict=True):
            student, teacher = regressor(tap.student, tap.teacher)
            losses.append(hint_loss(student, teacher, self.options.reduction))
        return {"hint": torch.stack(losses).sum()}

    def _regressor(self, tap: TapPair) -> Regressor:
        student, teacher = tap.student.shape, tap.teacher.shape
        if self.options.side == "teacher":
            return Regressor.towards_student(student, teacher)
        return Regressor.towards_teacher(student, teacher, tap.rectified, self.options.kernel)


@hookimpl
def kdengine_register(registry: Registrar) -> None:
    """Offer the method."""
    registry.distiller(FitNet)
