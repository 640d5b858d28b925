"""Activation boundaries: the student's neurons learn to be active where the teacher's are, and inactive elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from kdengine import Distiller, Pair, Phase, Registrar, Step, TapPair, hookimpl, match_spatial
from kdplugin_ab.connector import Connector

__all__ = ["ActivationBoundaries", "Connector", "boundary_loss"]

# B: batch, C: channels, H and W: height and width of a map.


def boundary_loss(student_BCHW: Tensor, teacher_BCHW: Tensor, margin: float = 1.0) -> Tensor:
    """Squared distance of the student from the teacher's side of every boundary; sum over C H W, mean over the batch; [].

    max(0, margin - s)^2 where the teacher is active (t > 0), max(0, margin + s)^2 elsewhere. Where the sizes differ,
    the larger maps are average-pooled to the smaller size first.

    Args:
        student_BCHW: pre-activations of the student, after the connector, [B, C, H, W].
        teacher_BCHW: pre-activations of the teacher, [B, C, H', W']; only the sign counts, so it gets no gradient.
        margin: distance from the boundary, on the teacher's side, from which on a neuron costs nothing.
    """
    student_BCHW, teacher_BCHW = match_spatial(student_BCHW, teacher_BCHW)
    away_BCHW = torch.where(teacher_BCHW > 0, -1.0, 1.0)  # the direction in which the student is wrong
    wrong_BCHW = (student_BCHW * away_BCHW).add_(margin).relu_()
    return wrong_BCHW.square().sum((1, 2, 3)).mean()


class ActivationBoundaries(Distiller):
    """Activation boundaries: first learn which neurons of the teacher are active, then learn the task.

    Source: Heo, Lee, Yun, Choi, "Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons",
    AAAI 2019, arXiv:1811.03233; scale and weights as in the authors' code.

    In pre-activation networks ``stages.pre`` is the raw sum that ends a stage; the README names the taps to read instead.
    """

    name = "ab"
    category = "multi-connection"
    groups = ("maps", "classic")
    taps = ("stages.pre",)
    takes = "maps"
    presets: ClassVar = {
        "official": {"taps": ("stages.pre",), "scale": 3e-3},
        "sseung": {"taps": ("stage2", "stage3"), "scale": 2e-3},
        "bhheo": {"taps": ("stages",), "scale": 4e-3, "connector": "always"},
        "repdistiller": {"init_epochs": 0.125},
    }

    class Options(Distiller.Options):
        """Options of activation boundaries."""

        init_epochs: int | float = Field(0.4, ge=0)
        """Epochs of the init phase: 40 is a number of epochs, 0.4 and 1.0 are shares of the run's own."""
        scale: float = Field(3e-3, ge=0)
        """Weight of the last tap; every tap before it weighs half as much as the one after."""
        margin: float = Field(1.0, gt=0)
        """Distance from a boundary, on the teacher's side, from which on a neuron costs nothing."""
        connector: Literal["auto", "always"] = "auto"
        """Whether the student's map passes a connector only where the widths differ, or always."""

    options: Options

    def build(self, pair: Pair) -> None:
        """One connector per tap."""
        self.connectors = nn.ModuleList(self._connector(tap) for tap in pair.pairs)

    def phases(self) -> Sequence[Phase]:
        """The phase ``init``, before the joint one."""
        return (Phase("init", epochs=self.options.init_epochs),)

    def taps_in(self, phase: str) -> Sequence[str] | None:
        """The taps are read in the init phase only."""
        return super().taps_in(phase) if phase == "init" else None

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The term ``boundary``, the weighted sum over all taps."""
        losses = [
            boundary_loss(connector(tap.student), tap.teacher, self.options.margin)
            for connector, tap in zip(self.connectors, step.pairs, strict=True)
        ]
        weighed = [self.options.scale * 0.5**above * loss for above, loss in enumerate(reversed(losses))]
        return {"boundary": torch.stack(weighed).sum()}

    def _connector(self, tap: TapPair) -> nn.Module:
        ours, theirs = tap.student.shape[1], tap.teacher.shape[1]
        return nn.Identity() if ours == theirs and self.options.connector == "auto" else Connector(ours, theirs)


@hookimpl
def kdengine_register(registry: Registrar) -> None:
    """Offer the method."""
    registry.distiller(ActivationBoundaries)
