"""A simple recipe for distillation: a projector, batch normalisation of both features, and a logarithm of the distance."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdengine import Distiller, Pair, Registrar, Step, TapPair, hookimpl, pool_to_vectors

__all__ = ["SRD", "Projector", "log_distance"]

SMALLEST = 1e-5
"""Added to the sum before its logarithm, as in the authors' code; without it, the gradient of a small sum would explode."""


def log_distance(student_BD: Tensor, teacher_BD: Tensor, power: float = 4.0) -> Tensor:
    """Logarithm of sum_bd |s - t|^power, the sum over the whole batch; [].

    Args:
        student_BD: normalised features of the student, [B, D].
        teacher_BD: normalised features of the teacher, of the same shape.
        power: exponent; the larger it is, the more the features count that differ most.
    """
    gap_BD = student_BD - teacher_BD
    raised_BD = gap_BD.square().square() if power == 4 else gap_BD.abs().pow(power)
    return (raised_BD.sum() + SMALLEST).log()


class _BatchNorm(nn.BatchNorm1d):
    """Batch normalisation without weights, by its running statistics where the batch has one image, and so no variance."""

    def __init__(self, features: int) -> None:
        super().__init__(features, eps=1e-4, affine=False)

    def forward(self, input: Tensor) -> Tensor:  # torch's name of the argument
        if len(input) == 1:
            return F.batch_norm(input, self.running_mean, self.running_var, eps=self.eps)
        return super().forward(input)


class Projector(nn.Module):
    """Brings the features of both networks to one width and scale.

    The student's pass through a linear map, without a bias, which the normalisation would cancel. Then every feature of both
    networks is normalised over the batch, without scale and shift. Only the map is trained.

    Args:
        student: features of the student.
        teacher: features of the teacher.
    """

    def __init__(self, student: int, teacher: int) -> None:
        super().__init__()
        self.project = nn.Linear(student, teacher, bias=False)
        self.student_norm = _BatchNorm(teacher)
        self.teacher_norm = _BatchNorm(teacher)

    def forward(self, student_BC: Tensor, teacher_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Features [B, C] of the student and [B, D] of the teacher -> both normalised, [B, D]."""
        return self.student_norm(self.project(student_BC)), self.teacher_norm(teacher_BD)


class SRD(Distiller):
    """A simple recipe for distillation: match normalised features, by the logarithm of their distance.

    beta log sum_bd |BN(W f_s) - BN(f_t)|^4

    Source: Miles, Mikolajczyk, "Understanding the Role of the Projector in Knowledge Distillation", AAAI 2024,
    arXiv:2303.11098; weight as in the authors' code.
    """

    name = "srd"
    category = "multi-connection"
    groups: ClassVar = ("maps", "modern")
    taps = ("embedding",)
    takes = "features"

    class Options(Distiller.Options):
        """Options of the simple recipe."""

        beta: float = Field(2.0, ge=0)
        """Weight of the sum over taps."""
        power: float = Field(4.0, ge=1)
        """Exponent of the differences; below 1 it would have no gradient at zero."""

    options: Options

    def build(self, pair: Pair) -> None:
        """One projector per tap."""
        widths = [tuple(pool_to_vectors(x).shape[1] for x in (tap.student, tap.teacher)) for tap in pair.pairs]
        self.projectors = nn.ModuleList(Projector(student, teacher) for student, teacher in widths)

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The term ``distance``, the sum over all taps."""
        losses = [self._loss(projector, tap) for projector, tap in zip(self.projectors, step.pairs, strict=True)]
        return {"distance": self.options.beta * torch.stack(losses).sum()}

    def _loss(self, projector: nn.Module, tap: TapPair) -> Tensor:
        student_BD, teacher_BD = projector(pool_to_vectors(tap.student), pool_to_vectors(tap.teacher))
        return log_distance(student_BD, teacher_BD, self.options.power)


@hookimpl
def kdengine_register(registry: Registrar) -> None:
    """Offer the method."""
    registry.distiller(SRD)
