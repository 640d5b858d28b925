"""Relational knowledge distillation: the student keeps the distances and angles between the images of a batch."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from kdengine import Distiller, Step, hookimpl
from pydantic import Field
from torch import Tensor

__all__ = ["RKD", "angle_loss", "distance_loss"]

# B: images of a batch, D: length of an embedding; the two networks' D may differ.


def _differences(x_BD: Tensor) -> Tensor:
    """x_i - x_j for all pairs: [B, D] -> [B, B, D]."""
    return x_BD[:, None] - x_BD[None]


def _distances(x_BD: Tensor) -> Tensor:
    """Euclidean distances divided by the mean of those that are not zero: [B, D] -> [B, B]."""
    squared_BB = _differences(x_BD).square().sum(2)
    itself_BB = torch.eye(len(x_BD), dtype=torch.bool, device=x_BD.device)
    # the floor keeps the root differentiable where two images coincide
    distances_BB = squared_BB.clamp(min=1e-12).sqrt().masked_fill(itself_BB, 0.0)
    return distances_BB / distances_BB[~itself_BB].mean()


def distance_loss(student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    """Huber loss between the scaled distances of all pairs, mean over B^2; []. Zero for a batch of one."""
    if len(student_BD) < 2:
        return 0.0 * student_BD.sum()
    return F.smooth_l1_loss(_distances(student_BD), _distances(teacher_BD))


def _angles(x_BD: Tensor) -> Tensor:
    """Cosine of the angle that images i and k make at image j: [B, D] -> [B(j), B(i), B(k)]."""
    towards_BBD = F.normalize(_differences(x_BD).transpose(0, 1), dim=2)
    return torch.bmm(towards_BBD, towards_BBD.transpose(1, 2))


def angle_loss(student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    """Huber loss between the cosines of the angles of all triplets, mean over B^3; []. Zero for a batch of one."""
    if len(student_BD) < 2:
        return 0.0 * student_BD.sum()
    return F.smooth_l1_loss(_angles(student_BD), _angles(teacher_BD))


def _pooled(features: Tensor) -> Tensor:
    """Embeddings as they are, maps averaged over their places: [B, D] or [B, D, H, W] -> [B, D]."""
    return features.flatten(2).mean(2) if features.ndim > 2 else features


class RKD(Distiller):
    """Relational knowledge distillation: match the distances and the angles between the embeddings of a batch.

    Source: Park, Kim, Lu, Cho, "Relational Knowledge Distillation", CVPR 2019, arXiv:1904.05068.
    """

    name = "rkd"
    category = "relational"
    taps = ("embedding",)

    class Options(Distiller.Options):
        distance: float = Field(25.0, ge=0)
        """Weight of the distance term."""
        angle: float = Field(50.0, ge=0)
        """Weight of the angle term."""
        l2_normalize: bool = False
        """Scale every embedding to unit length first."""

    def forward(self, step: Step) -> dict[str, Tensor]:
        student, teacher = (_pooled(trace["embedding"]) for trace in (step.student, step.teacher))
        if self.options.l2_normalize:
            student, teacher = F.normalize(student, dim=1), F.normalize(teacher, dim=1)
        return {
            "distance": self.options.distance * distance_loss(student, teacher),
            "angle": self.options.angle * angle_loss(student, teacher),
        }


@hookimpl
def kdengine_register(registry: Any) -> None:
    registry.distiller(RKD)
