"""Flow of solution procedure: the student learns how the teacher gets from one layer to the next."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdengine import Adapter, Distiller, Pair, Phase, Registrar, Step, TapError, TapPair, hookimpl, match_spatial

__all__ = ["FSP", "flow_loss", "flow_matrix"]

# B: batch, C and D: channels of an earlier and a later layer, H and W: height and width of a map.


def flow_matrix(earlier_BCHW: Tensor, later_BDHW: Tensor, pool: str = "max") -> Tensor:
    """FSP matrix of two layers of a network, the mean over positions of the products of their channels: [B, C, D].

    Args:
        earlier_BCHW: maps of the earlier layer, [B, C, H, W].
        later_BDHW: maps of the later layer, [B, D, H', W'].
        pool: ``"max"`` or ``"avg"``: how the larger map is reduced to the size of the smaller one.
    """
    earlier_BCHW, later_BDHW = _in_one_size(earlier_BCHW, later_BDHW, pool)
    positions = later_BDHW.shape[2:].numel()
    return torch.bmm(earlier_BCHW.flatten(2), later_BDHW.flatten(2).mT) / positions


def flow_loss(student_BCD: Tensor, teacher_BCD: Tensor, reduction: str = "mean") -> Tensor:
    """Squared difference of two FSP matrices; [].

    Args:
        student_BCD: the student's matrices, [B, C, D].
        teacher_BCD: the teacher's matrices, [B, C, D]; they get no gradient.
        reduction: ``"mean"`` over all elements, or ``"sum_half"``: half the sum over a matrix, mean over the batch.
    """
    squared = F.mse_loss(student_BCD, teacher_BCD.detach(), reduction="none")
    return squared.mean() if reduction == "mean" else 0.5 * squared.flatten(1).sum(1).mean()


def _in_one_size(earlier: Tensor, later: Tensor, pool: str) -> tuple[Tensor, Tensor]:
    if pool == "avg" or earlier.shape[2:] == later.shape[2:]:
        return match_spatial(earlier, later)
    size = [min(sides) for sides in zip(earlier.shape[2:], later.shape[2:], strict=True)]
    return F.adaptive_max_pool2d(earlier, size), F.adaptive_max_pool2d(later, size)


class FSP(Distiller):
    """Flow of solution procedure: first match the products of features of consecutive layers, then learn the task.

    Source: Yim, Joo, Bae, Kim, "A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and Transfer
    Learning", CVPR 2017.
    """

    name = "fsp"
    category = "shared-representation"
    groups = ("maps", "classic")
    taps = ("stem", "stages")
    takes = "maps"
    presets: ClassVar = {
        "sseung": {"taps": ("stage2", "stage3"), "weight": 0.5},
        "bhheo": {"taps": ("stages",), "reduction": "sum_half", "weight": 1e-3},
        "repdistiller": {"pool": "avg", "fsp_epochs": 0.125},
        "zoo": {"pool": "avg", "fsp_epochs": 0.25, "weight": 1 / 3},
    }

    class Options(Distiller.Options):
        """Options of FSP."""

        mode: Literal["two_phase", "joint"] = "two_phase"
        """The FSP matrices before the task, or together with it."""
        fsp_epochs: int | float = Field(0.4, ge=0)
        """Epochs of the fsp phase in mode 'two_phase': 40 is a number of epochs, 0.4 and 1.0 are shares of the run's own."""
        pool: Literal["max", "avg"] = "max"
        """How the larger of two consecutive maps is brought to the size of the smaller one."""
        reduction: Literal["mean", "sum_half"] = "mean"
        """Mean over all elements, or half the sum over a matrix and mean over the batch."""

    options: Options

    def build(self, pair: Pair) -> None:
        """One adapter per tap on the student's side, where the widths differ."""
        if len(pair.pairs) == 1:
            (tap,) = pair.pairs
            raise TapError(
                f"fsp: '{tap.name}' is the only tap, but the flow goes from one layer to the next. Name two or more, "
                "such as fsp.taps='stage1,stage2'."
            )
        self.adapters = nn.ModuleList(_adapter(tap) for tap in pair.pairs)

    def phases(self) -> Sequence[Phase]:
        """The phase ``fsp``, before the joint one, or none."""
        return () if self.options.mode == "joint" else (Phase("fsp", epochs=self.options.fsp_epochs),)

    def taps_in(self, phase: str) -> Sequence[str] | None:
        """The taps are read in the fsp phase, or in the joint one."""
        return super().taps_in(phase) if phase == "fsp" or self.options.mode == "joint" else None

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The term ``flow``, the sum over all pairs of consecutive taps."""
        student = self._flows(adapter(tap.student) for adapter, tap in zip(self.adapters, step.pairs, strict=True))
        teacher = self._flows(tap.teacher for tap in step.pairs)
        losses = [flow_loss(*flows, self.options.reduction) for flows in zip(student, teacher, strict=True)]
        return {"flow": torch.stack(losses).sum()}

    def _flows(self, maps: Iterable[Tensor]) -> list[Tensor]:
        return [flow_matrix(earlier, later, self.options.pool) for earlier, later in pairwise(maps)]


def _adapter(tap: TapPair) -> nn.Module:
    return Adapter.between(tap.student.shape[1], tap.teacher.shape[1])


@hookimpl
def kdengine_register(registry: Registrar) -> None:
    """Offer the method."""
    registry.distiller(FSP)
