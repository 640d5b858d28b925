"""Operations that bring the features of two networks into a comparable form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["flat_features", "gram", "l2_normalize", "match_spatial", "pool_to_vectors", "resize_maps", "vector_width"]

SHORTEST = 1e-12
"""Squared norm at and below which a vector counts as zero."""


def pool_to_vectors(features: Tensor) -> Tensor:
    """One vector per image, [B, D]: the mean over the positions of a map [B, D, H, W] or over tokens [B, N, D]."""
    if features.ndim == 4:
        return features.mean((2, 3))
    return features.mean(1) if features.ndim == 3 else features


def l2_normalize(vectors: Tensor, dim: int = -1) -> Tensor:
    """Vectors along one axis, scaled to norm 1; a zero vector stays zero, with gradient zero instead of a huge one."""
    squared = torch.linalg.vecdot(vectors, vectors, dim=dim).unsqueeze(dim)
    return vectors * torch.where(squared > SHORTEST, squared, math.inf).rsqrt()


def flat_features(features: Tensor) -> Tensor:
    """All features of an image in a row, [B, ...] -> [B, N], for what treats them all alike, such as products of images.

    They come in the order in which they lie in memory: a map in ``channels_last`` is not copied.
    """
    lasting = features.ndim == 4 and features.is_contiguous(memory_format=torch.channels_last)
    return features.permute(0, 2, 3, 1).flatten(1) if lasting else features.flatten(1)


def gram(vectors: Tensor) -> Tensor:
    """The products of all pairs of vectors: [..., N, D] -> [..., N, N].

    The same as ``vectors @ vectors.mT``, but the gradient takes one product instead of two, and lies in memory as the vectors
    do.
    """
    products: Tensor = _Gram.apply(vectors)
    return products


class _Gram(torch.autograd.Function):
    """X X^T, whose gradient is (G + G^T) X."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor) -> Tensor:
        ctx.save_for_backward(vectors)
        return vectors @ vectors.mT

    @staticmethod
    def backward(ctx: Any, by_products: Tensor) -> Tensor:
        (vectors,) = ctx.saved_tensors
        both = by_products + by_products.mT
        gradient: Tensor = (vectors.mT @ both).mT if vectors.mT.is_contiguous() else both @ vectors
        return gradient


def resize_maps(maps_BCHW: Tensor, size: Sequence[int]) -> Tensor:
    """Maps resized to ``[B, C, *size]``: average-pooled if neither side grows, else interpolated bilinearly."""
    height, width = size
    if maps_BCHW.shape[2:] == (height, width):
        return maps_BCHW
    if maps_BCHW.shape[2] >= height and maps_BCHW.shape[3] >= width:
        return F.adaptive_avg_pool2d(maps_BCHW, (height, width))
    return F.interpolate(maps_BCHW, (height, width), mode="bilinear", align_corners=False)


def match_spatial(student_BCHW: Tensor, teacher_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps, average-pooled to the smaller height and the smaller width of the two."""
    size = [min(sides) for sides in zip(student_BCHW.shape[2:], teacher_BCHW.shape[2:], strict=True)]
    return resize_maps(student_BCHW, size), resize_maps(teacher_BCHW, size)


def vector_width(features: Tensor) -> int:
    """Length D of the vectors that :func:`pool_to_vectors` makes: of vectors [B, D], tokens [B, N, D] or maps [B, D, H, W]."""
    return features.shape[1] if features.ndim == 4 else features.shape[-1]
