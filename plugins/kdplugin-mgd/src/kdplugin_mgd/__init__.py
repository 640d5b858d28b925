"""Masked generative distillation: from a part of its features, the student must generate all of the teacher's."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from kdengine import Distiller, Pair, Registrar, Step, TapPair, hookimpl, match_spatial

__all__ = ["MGD", "Generator", "draw_mask", "generation_loss"]


def draw_mask(maps_BCHW: Tensor, share: float, over: str = "channels") -> Tensor:
    """A random mask of ones and zeros: [B, C, 1, 1] over channels, or [B, 1, H, W] over positions.

    Args:
        maps_BCHW: the maps to mask.
        share: probability of a zero.
        over: ``"channels"`` or ``"positions"``.
    """
    images, channels, *size = maps_BCHW.shape
    shape = (images, channels, 1, 1) if over == "channels" else (images, 1, *size)
    # drawn in float32 in every precision of a run: bf16 has too few numbers in [0, 1) for an exact share
    return (torch.rand(shape, device=maps_BCHW.device) >= share).to(maps_BCHW.dtype)


def generation_loss(generated_BCHW: Tensor, teacher_BCHW: Tensor) -> Tensor:
    """Squared difference of two maps of equal shape, summed over an image, mean over the batch; []."""
    return (generated_BCHW - teacher_BCHW).square().sum() / len(teacher_BCHW)


class Generator(nn.Module):
    """Makes the teacher's map from a masked map of the student.

    Args:
        student: channels of the student's map.
        teacher: channels C of the teacher's map.
    """

    def __init__(self, student: int, teacher: int) -> None:
        super().__init__()
        self.align = nn.Identity() if student == teacher else nn.Conv2d(student, teacher, 1)
        self.generate = nn.Sequential(
            nn.Conv2d(teacher, teacher, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(teacher, teacher, 3, padding=1)
        )

    def forward(self, student_BDHW: Tensor, share: float, over: str) -> Tensor:
        """The student's map [B, D, H, W] -> the generated one [B, C, H, W]; ``share`` and ``over`` as in :func:`draw_mask`."""
        aligned_BCHW = self.align(student_BDHW)
        generated: Tensor = self.generate(aligned_BCHW * draw_mask(aligned_BCHW, share, over))
        return generated


class MGD(Distiller):
    """Masked generative distillation: generate the teacher's map from the student's, a part of which is masked at random.

    alpha / B sum_b ||G(M_b A(s_b)) - t_b||^2

    Source: Yang, Li, Shao, Shi, Yuan, Yuan, "Masked Generative Distillation", ECCV 2022, arXiv:2205.01529; weight and mask
    as in the authors' code for classification.
    """

    name = "mgd"
    category = "multi-connection"
    groups: ClassVar = ("maps", "modern")
    taps = ("stage-1",)
    takes = "maps"
    presets: ClassVar = {"detection": {"alpha": 2e-5, "mask": 0.65, "over": "positions"}}

    class Options(Distiller.Options):
        """Options of masked generative distillation."""

        alpha: float = Field(7e-5, ge=0)
        """Weight of the sum over taps."""
        mask: float = Field(0.15, ge=0, lt=1)
        """Probability of a channel or position to be masked."""
        over: Literal["channels", "positions"] = "channels"
        """What a mask hides: whole channels, or positions in all channels."""

    options: Options

    def build(self, pair: Pair) -> None:
        """One generator per tap."""
        self.generators = nn.ModuleList(Generator(tap.student.shape[1], tap.teacher.shape[1]) for tap in pair.pairs)

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The term ``generation``, the sum over all taps."""
        losses = [self._loss(step, generator, tap) for generator, tap in zip(self.generators, step.pairs, strict=True)]
        return {"generation": self.options.alpha * torch.stack(losses).sum()}

    def _loss(self, step: Step, generator: nn.Module, tap: TapPair) -> Tensor:
        student_BDHW, teacher_BCHW = match_spatial(tap.student, tap.teacher)
        with step.precision():
            generated_BCHW = generator(student_BDHW, self.options.mask, self.options.over)
        return generation_loss(generated_BCHW.float(), teacher_BCHW)


@hookimpl
def kdengine_register(registry: Registrar) -> None:
    """Offer the method."""
    registry.distiller(MGD)
