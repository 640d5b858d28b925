"""PHI-S: features of teachers of any scale, standardised so that each counts equally."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdengine import (
    Distiller,
    Pair,
    Processes,
    Registrar,
    Step,
    hookimpl,
    match_spatial,
    pool_to_vectors,
    projector,
    vector_width,
)
from kdplugin_phi_s.normalizer import Normalizer
from kdplugin_phi_s.rotation import hadamard

__all__ = ["PhiS", "hadamard", "samples"]

# N: samples, which are images, positions of maps or tokens; S, D: channels of student and teacher.


def samples(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """What is compared, [N, S] and [N, D]: positions of two maps, equal numbers of tokens, else one vector for each image."""
    if student.ndim == teacher.ndim == 4:
        student, teacher = (maps.flatten(2).transpose(1, 2) for maps in match_spatial(student, teacher))
    if student.ndim == teacher.ndim == 3 and student.shape[1] == teacher.shape[1]:
        return student.flatten(0, 1), teacher.flatten(0, 1)
    return pool_to_vectors(student), pool_to_vectors(teacher)


class PhiS(Distiller):
    """PHI-S: predict the features of every teacher, rotated and scaled so that each of their channels has variance 1.

    Source: Ranzinger, Barker, Heinrich, Molchanov, Catanzaro, Tao, "PHI-S: Distribution Balancing for Label-Free
    Multi-Teacher Distillation", 2024, arXiv:2410.01680.
    """

    name = "phi-s"
    category = "multi-connection"
    groups = ("relations", "modern")
    taps = ("embedding",)
    takes = "features"
    reads = "all-teachers"

    class Options(Distiller.Options):
        """Options of PHI-S."""

        normalize: Literal["phi-s", "global", "channel", "none"] = "phi-s"
        """How the teachers' features are scaled: one factor after a rotation, one factor alone, one for each channel, none."""
        batches: int = Field(20, ge=1)
        """Batches at the start of the run from which the statistics are estimated; the method has no say during these."""
        adapter: Literal["linear", "mlp"] = "linear"
        """What predicts a teacher's features from the student's: a linear map, or two with LayerNorm and GELU between."""

    options: Options

    def build(self, pair: Pair) -> None:
        """For each teacher and tap, an adapter and the statistics."""
        taps = [tap for one in pair.per_teacher for tap in one.pairs]
        widths = [(vector_width(tap.student), vector_width(tap.teacher)) for tap in taps]
        self.adapters = nn.ModuleList(projector(self.options.adapter, *both) for both in widths)
        batches, normalize = self.options.batches, self.options.normalize
        self.normalizers = nn.ModuleList(Normalizer(width, batches, normalize) for _, width in widths)

    def forward(self, step: Step) -> dict[str, Tensor]:
        """``mse``; with T teachers ``mse_1`` to ``mse_T``, each divided by T: the sum over the taps of a teacher."""
        steps = step.per_teacher
        parts = iter(zip(self.adapters, self.normalizers, strict=True))
        terms = {}
        for number, one in enumerate(steps, 1):
            losses = [_loss(*next(parts), *samples(tap.student, tap.teacher), step.processes) for tap in one.pairs]
            terms["mse" if len(steps) == 1 else f"mse_{number}"] = torch.stack(losses).sum() / len(steps)
        return terms


def _loss(adapter: nn.Module, normalizer: nn.Module, student_NS: Tensor, teacher_ND: Tensor, processes: Processes) -> Tensor:
    """Mean of the squared differences, over samples and channels; [], 0 while the statistics are being estimated."""
    predicted_ND, target_ND = adapter(student_NS), normalizer(teacher_ND, processes)
    return 0.0 * predicted_ND.sum() if target_ND is None else F.mse_loss(predicted_ND, target_ND)


@hookimpl
def kdengine_register(registry: Registrar) -> None:
    """Offer the method."""
    registry.distiller(PhiS)
