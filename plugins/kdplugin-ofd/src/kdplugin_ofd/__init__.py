"""Overhaul of feature distillation: the teacher's responses before the activation, as far as they matter behind it."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from kdengine import Adapter, Distiller, ModuleView, Pair, Registrar, Step, TapError, hookimpl, match_spatial
from kdplugin_ofd.margin import Margin, margins_of_batch, margins_of_norm

__all__ = ["OFD", "Margin", "margins_of_batch", "margins_of_norm", "partial_loss"]

# B: batch, C: channels, H and W: height and width of a map.


def partial_loss(student_BCHW: Tensor, target_BCHW: Tensor) -> Tensor:
    """Squared difference, except where both are inactive and the student is below; sum over C H W, mean over the batch; [].

    Zero where s <= t <= 0, else (s - t)^2. Where the sizes differ, the larger maps are average-pooled to the smaller size.

    Args:
        student_BCHW: responses of the student before the activation, [B, C, H, W].
        target_BCHW: responses of the teacher, raised to the margin, [B, C, H', W'].
    """
    student_BCHW, target_BCHW = match_spatial(student_BCHW, target_BCHW)
    counts_BCHW = (student_BCHW > target_BCHW) | (target_BCHW > 0)
    difference_BCHW = torch.where(counts_BCHW, student_BCHW - target_BCHW, 0.0)
    return difference_BCHW.square().sum((1, 2, 3)).mean()


class OFD(Distiller):
    """Overhaul of feature distillation: match the teacher before the activation, negative responses only to a margin.

    Source: Heo, Kim, Yun, Park, Kwak, Choi, "A Comprehensive Overhaul of Feature Distillation", ICCV 2019,
    arXiv:1904.01866; scale and weights as in the authors' code.

    In pre-activation networks ``stages.pre`` is the raw sum that ends a stage; the README names the taps to read instead.
    """

    name = "ofd"
    category = "multi-connection"
    groups = ("maps", "classic")
    taps = ("stages.pre",)
    takes = "maps"

    class Options(Distiller.Options):
        """Options of the overhaul."""

        scale: float = Field(1e-3, ge=0)
        """Weight of the last tap; every tap before it weighs half as much as the one after."""
        margins: Literal["norm", "batch"] = "norm"
        """Margins from the teacher's batch normalisation before each tap where it has one, or always from the first batch."""

    options: Options

    def build(self, pair: Pair) -> None:
        """One connector and one margin per tap."""
        widths = [(tap.student.shape[1], tap.teacher.shape[1], tap.teacher_name) for tap in pair.pairs]
        self.connectors = nn.ModuleList(Adapter(ours, theirs) for ours, theirs, _ in widths)
        self.margins = nn.ModuleList(Margin(theirs, self._norm(pair, tap)) for _, theirs, tap in widths)

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The term ``distance``, the weighted sum over all taps."""
        losses = [
            partial_loss(connector(tap.student), margin(tap.teacher, step.processes))
            for connector, margin, tap in zip(self.connectors, self.margins, step.pairs, strict=True)
        ]
        weighed = [self.options.scale * 0.5**above * loss for above, loss in enumerate(reversed(losses))]
        return {"distance": torch.stack(weighed).sum()}

    def _norm(self, pair: Pair, tap: str) -> ModuleView | None:
        if self.options.margins == "batch":
            return None
        try:
            return pair.teacher_module(tap, nn.BatchNorm2d)
        except TapError:
            return None


@hookimpl
def kdengine_register(registry: Registrar) -> None:
    """Offer the method."""
    registry.distiller(OFD)
