"""Relational knowledge distillation: the student keeps the distances and angles between the images of a batch."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from torch.autograd.function import once_differentiable

from kdengine import Distiller, Registrar, Step, hookimpl, l2_normalize, pool_to_vectors

__all__ = ["RKD", "angle_loss", "distance_loss"]

# B: images of a batch, D: length of an embedding; the two networks' D may differ.

IN_CACHE, IN_MEMORY = 2**18, 2**26
"""How many cosines a CPU and a GPU compare at once: so few that they stay in the cache, or leave room for the networks."""
SHORTEST = 1e-6
"""Distance below which two images count as one."""
EXACT = "donot_use_mm_for_euclid_dist"
"""How to compute distances: from the differences, because by a product of matrices small ones are lost to rounding."""


def _between(x_BD: Tensor) -> Tensor:
    """Euclidean distances of all pairs: [B, D] -> [B, B]."""
    return torch.cdist(x_BD, x_BD, compute_mode=EXACT)


def _scaled(distances_BB: Tensor, count_diagonal: bool) -> Tensor:
    """Distances [B, B] divided by their mean over all pairs of different images."""
    count = len(distances_BB)
    same_BB = torch.eye(count, dtype=torch.bool, device=distances_BB.device)
    distances_BB = distances_BB.clamp(min=SHORTEST).masked_fill(same_BB, 0.0)
    pairs = count**2 if count_diagonal else count * (count - 1)
    return distances_BB * pairs / distances_BB.sum()


def distance_loss(student_BD: Tensor, teacher_BD: Tensor, count_diagonal: bool = False) -> Tensor:
    """Huber loss between the scaled distances of all pairs, mean over B^2; []. Zero for a batch of one.

    Args:
        student_BD: embeddings of the student, [B, D].
        teacher_BD: embeddings of the teacher, [B, D']; D' may differ.
        count_diagonal: whether the zero distance of each image to itself counts in the mean distance.
    """
    return _distance_loss(_between(student_BD), _between(teacher_BD), count_diagonal)


def _distance_loss(student_BB: Tensor, teacher_BB: Tensor, count_diagonal: bool) -> Tensor:
    """The same from the distances of all pairs, [B, B]."""
    if len(student_BB) < 2:
        return 0.0 * student_BB.sum()
    return F.smooth_l1_loss(_scaled(student_BB, count_diagonal), _scaled(teacher_BB, count_diagonal))


def _directions(x_BD: Tensor, here: slice, inverse_CB1: Tensor) -> Tensor:
    """Unit vectors from some images to all, [C, B, D], given the inverse distances; zero where images coincide."""
    return (x_BD - x_BD[here, None]).mul_(inverse_CB1)


class _AngleLoss(torch.autograd.Function):
    """Huber loss between the cosines of all angles and its gradient at once, for some images at a time.

    The cosines at an image are the products of its directions, C = U U^T. Like them, the slope S of the loss is symmetric, so
    the gradient by the directions is 2 S U; of that, what is along a direction is lost, because directions have length 1.
    """

    @staticmethod
    def forward(ctx: Any, student_BD: Tensor, teacher_BD: Tensor, student_BB: Tensor, teacher_BB: Tensor) -> Tensor:
        """The mean over all triplets, given the distances of all pairs too; []."""
        gradient_BD = torch.zeros_like(student_BD)
        total = student_BD.new_zeros(())
        of_student, of_teacher = (
            torch.where(distances > SHORTEST, distances, math.inf).reciprocal()[:, :, None]
            for distances in (student_BB, teacher_BB)
        )
        at_once = IN_CACHE if student_BD.device.type == "cpu" else IN_MEMORY
        size = max(1, at_once // len(student_BD) ** 2)
        for start in range(0, len(student_BD), size):
            here = slice(start, start + size)
            student = _directions(student_BD, here, of_student[here])
            teacher = _directions(teacher_BD, here, of_teacher[here])
            difference = torch.bmm(teacher, teacher.mT).baddbmm_(student, student.mT, beta=-1)
            slope = difference.clamp(-1, 1)
            bent = slope.flatten()  # Huber's loss is slope * (difference - slope / 2)
            total += torch.dot(bent, difference.flatten()).sub_(torch.dot(bent, bent), alpha=0.5)
            pull = torch.bmm(slope, student)
            along = torch.linalg.vecdot(pull, student).unsqueeze(2)
            pull.addcmul_(along, student, value=-1).mul_(of_student[here])
            gradient_BD += pull.sum(0)
            gradient_BD[here] -= pull.sum(1)
        count = len(student_BD) ** 3
        ctx.save_for_backward(gradient_BD * (2 / count))
        return total / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor, None, None, None]:
        """By the embeddings of the student, [B, D]; those of the teacher are constant."""
        (gradient_BD,) = ctx.saved_tensors
        return gradient_BD * weight, None, None, None


def angle_loss(student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    """Huber loss between the cosines of the angles of all triplets, mean over B^3; []. Zero for a batch of one.

    The teacher is a constant: no gradient reaches it.
    """
    return _angle_loss(student_BD, teacher_BD, _between(student_BD), _between(teacher_BD))


def _angle_loss(student_BD: Tensor, teacher_BD: Tensor, student_BB: Tensor, teacher_BB: Tensor) -> Tensor:
    """The same, given the distances of all pairs too, [B, B]."""
    if len(student_BD) < 2:
        return 0.0 * student_BD.sum()
    loss: Tensor = _AngleLoss.apply(student_BD, teacher_BD, student_BB, teacher_BB)
    return loss


class RKD(Distiller):
    """Relational knowledge distillation: match the distances and the angles between the embeddings of a batch.

    Source: Park, Kim, Lu, Cho, "Relational Knowledge Distillation", CVPR 2019, arXiv:1904.05068.
    """

    name = "rkd"
    category = "relational"
    groups = ("relations", "classic")
    taps = ("embedding",)
    takes = "features"
    presets: ClassVar = {
        "bhheo": {"taps": ("logits",), "l2_normalize": True, "distance": 100.0, "angle": 200.0, "count_diagonal": True},
    }

    class Options(Distiller.Options):
        """Options of relational distillation."""

        distance: float = Field(25.0, ge=0)
        """Weight of the distance term."""
        angle: float = Field(50.0, ge=0)
        """Weight of the angle term."""
        l2_normalize: bool = False
        """Scale every embedding to unit length first."""
        count_diagonal: bool = False
        """Count the zero distance of each image to itself in the mean distance."""

    options: Options

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The terms ``distance`` and ``angle``, each the sum over all taps."""
        pairs = [(self._vectors(tap.student), self._vectors(tap.teacher)) for tap in step.pairs]
        apart = [(_between(student), _between(teacher)) for student, teacher in pairs]
        distances = [_distance_loss(*both, self.options.count_diagonal) for both in apart]
        angles = [_angle_loss(*vectors, *both) for vectors, both in zip(pairs, apart, strict=True)]
        return {
            "distance": self.options.distance * torch.stack(distances).sum(),
            "angle": self.options.angle * torch.stack(angles).sum(),
        }

    def _vectors(self, features: Tensor) -> Tensor:
        return l2_normalize(pool_to_vectors(features)) if self.options.l2_normalize else pool_to_vectors(features)


@hookimpl
def kdengine_register(registry: Registrar) -> None:
    """Offer the method."""
    registry.distiller(RKD)
