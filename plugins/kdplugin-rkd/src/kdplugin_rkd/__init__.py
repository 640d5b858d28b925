"""Relational knowledge distillation: the student keeps the distances and angles between the images of a batch."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from kdengine import Distiller, Registrar, Step, hookimpl, l2_normalize, pool_to_vectors

__all__ = ["RKD", "angle_loss", "distance_loss"]

# B: images of a batch, D: length of an embedding; the two networks' D may differ.

SHORTEST = 1e-12
"""Square of the length below which a difference counts as zero."""


def _differences(x_BD: Tensor) -> Tensor:
    """x_i - x_j for all pairs: [B, D] -> [B, B, D]."""
    return x_BD[:, None] - x_BD[None]


def _distances(x_BD: Tensor, count_diagonal: bool) -> Tensor:
    """Euclidean distances divided by their mean over all pairs of different images: [B, D] -> [B, B]."""
    count = len(x_BD)
    itself_BB = torch.eye(count, dtype=torch.bool, device=x_BD.device)
    # the clamp keeps the root differentiable where two images coincide
    distances_BB = _differences(x_BD).square().sum(2).clamp(min=SHORTEST).sqrt().masked_fill(itself_BB, 0.0)
    pairs = count**2 if count_diagonal else count * (count - 1)
    return distances_BB * pairs / distances_BB.sum()


def distance_loss(student_BD: Tensor, teacher_BD: Tensor, count_diagonal: bool = False) -> Tensor:
    """Huber loss between the scaled distances of all pairs, mean over B^2; []. Zero for a batch of one.

    Args:
        student_BD: embeddings of the student, [B, D].
        teacher_BD: embeddings of the teacher, [B, D']; D' may differ.
        count_diagonal: whether the zero distance of each image to itself counts in the mean distance.
    """
    if len(student_BD) < 2:
        return 0.0 * student_BD.sum()
    return F.smooth_l1_loss(_distances(student_BD, count_diagonal), _distances(teacher_BD, count_diagonal))


def _angles(x_BD: Tensor) -> Tensor:
    """Cosine of the angle that images i and k make at image j: [B, D] -> [B(j), B(i), B(k)]."""
    away_BBD = l2_normalize(_differences(x_BD))  # from j to i with the opposite sign, which cancels in the product of two
    return torch.bmm(away_BBD, away_BBD.transpose(1, 2))


def angle_loss(student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    """Huber loss between the cosines of the angles of all triplets, mean over B^3; []. Zero for a batch of one."""
    if len(student_BD) < 2:
        return 0.0 * student_BD.sum()
    return F.smooth_l1_loss(_angles(student_BD), _angles(teacher_BD))


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
        distances = [distance_loss(student, teacher, self.options.count_diagonal) for student, teacher in pairs]
        angles = [angle_loss(student, teacher) for student, teacher in pairs]
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
