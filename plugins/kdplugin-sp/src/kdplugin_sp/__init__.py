"""Similarity-preserving distillation: images that are alike to the teacher become alike to the student."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from kdengine import Distiller, Registrar, Step, flat_features, gram, hookimpl, l2_normalize

__all__ = ["SimilarityPreserving", "similarities", "similarity_loss"]

# B: images of a batch, D: features of an image; the two networks' D may differ.


def similarities(features: Tensor) -> Tensor:
    """Products of the flattened features of all pairs of images, each row scaled to length 1: [B, ...] -> [B, B]."""
    flat_BD = flat_features(features)
    # a scale common to all images cancels in every row; dividing by it keeps the products of small features from vanishing
    scale = flat_BD.detach().norm().clamp(min=torch.finfo(flat_BD.dtype).tiny)
    flat_BD = flat_BD / scale
    return l2_normalize(gram(flat_BD))


def similarity_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared difference of the similarities of two networks, mean over B^2; []. Zero for a batch of one.

    Args:
        student: features of the student, [B, ...].
        teacher: features of the teacher, [B, ...]; all axes but the first may differ. They get no gradient.
    """
    return F.mse_loss(similarities(student), similarities(teacher.detach()))


class SimilarityPreserving(Distiller):
    """Similarity-preserving distillation: match which images of a batch activate a layer alike.

    beta / B^2 ||G_s - G_t||_F^2, G = F F^T with rows scaled to length 1, F: flattened features [B, C H W]

    Source: Tung, Mori, "Similarity-Preserving Knowledge Distillation", ICCV 2019, arXiv:1907.09682.
    """

    name = "sp"
    category = "relational"
    groups = ("relations", "classic")
    taps = ("stage-1",)
    takes = "features"
    presets: ClassVar = {"zoo": {"taps": ("stages",), "beta": 1000.0}}

    class Options(Distiller.Options):
        """Options of similarity-preserving distillation."""

        beta: float = Field(3000.0, ge=0)
        """Weight of the sum over taps."""

    options: Options

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The term ``similarity``, the sum over all taps."""
        losses = [similarity_loss(tap.student, tap.teacher) for tap in step.pairs]
        return {"similarity": self.options.beta * torch.stack(losses).sum()}


@hookimpl
def kdengine_register(registry: Registrar) -> None:
    """Offer the method."""
    registry.distiller(SimilarityPreserving)
