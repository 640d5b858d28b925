"""The leading right singular vectors of feature maps, and their exact gradient."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

__all__ = ["leading_vectors"]

# B: images of a batch, C: channels, N: positions H W of a map, R = min(N, C): singular values of a map, k: those asked for.

ROUNDING = 10
"""Bound on the error of singular values and of their squares, in units of eps times the largest; at most 7 was measured."""


def leading_vectors(maps_BCHW: Tensor, count: int, decomposition: str = "eigh") -> tuple[Tensor, Tensor]:
    """The largest singular values of every image's matrix [H W, C], and its right singular vectors.

    A vector's sign is such that its largest entry is positive. The vector of a singular value that is zero within
    rounding is zero and has no gradient. For a map with an infinity or a NaN, everything is NaN.

    The gradient is that of the vectors alone, and exact where their singular values differ from all others; the
    part that would rotate two vectors of one singular value into each other is left out, which keeps it finite. It cannot
    be differentiated again.

    Args:
        maps_BCHW: feature maps, [B, C, H, W].
        count: how many, k; at most min(H W, C).
        decomposition: ``"svd"``, or ``"eigh"`` of the smaller Gram matrix, which is faster, but in float32 treats
            as zero what is less than a thousandth of the largest singular value.

    Returns:
        Singular values [B, k], largest first, without gradient; vectors [B, C, k].
    """
    x_BNC = maps_BCHW.flatten(2).transpose(1, 2)
    largest, least = (bound(x_BNC.detach(), (1, 2), keepdim=True) for bound in (torch.amax, torch.amin))
    scale_B11 = torch.maximum(largest, -least)  # so that no square over- or underflows
    sound_B11 = scale_B11.isfinite()
    scaled_BNC = x_BNC / scale_B11.clamp(min=torch.finfo(x_BNC.dtype).tiny)
    values_Bk, vectors_BCk = _LeadingVectors.apply(scaled_BNC, sound_B11, count, decomposition)
    return values_Bk * scale_B11[:, 0], torch.where(sound_B11, vectors_BCk, math.nan)


class _LeadingVectors(Function):
    """The leading right singular vectors as a differentiable function of the matrices."""

    @staticmethod
    def forward(ctx: Any, x_BNC: Tensor, sound_B11: Tensor, count: int, decomposition: str) -> tuple[Tensor, Tensor]:
        decompose = _by_svd if decomposition == "svd" else _by_eigh
        values_BR, vectors_BCR = decompose(x_BNC, sound_B11)
        vectors_BCR = vectors_BCR * _signs(vectors_BCR)
        ctx.count = count
        ctx.save_for_backward(x_BNC, values_BR, vectors_BCR)
        values_Bk = values_BR[:, :count]
        ctx.mark_non_differentiable(values_Bk)
        return values_Bk, vectors_BCR[:, :, :count]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Tensor, slope_BCk: Tensor) -> tuple[Tensor, None, None, None]:
        """With G = X^T X and its eigenvalues l: dv_j = sum over i != j of v_i (v_i^T dG v_j) / (l_j - l_i).

        The sum runs over all C eigenvectors; those in the null space of X have l_i = 0 and need not be known individually.
        """
        x_BNC, values_BR, vectors_BCR = ctx.saved_tensors
        leading_BCk = vectors_BCR[:, :, : ctx.count]
        squares_BR = values_BR.square()
        own_B1k = squares_BR[:, None, : ctx.count]
        alive_B1k = leading_BCk.square().sum(1, keepdim=True) > 0
        gaps_BRk = own_B1k - squares_BR[:, :, None]
        apart_BRk = gaps_BRk.abs() > _rounding(x_BNC) * squares_BR[:, :1, None]
        along_BRk = vectors_BCR.transpose(1, 2) @ slope_BCk
        turns_BCk = vectors_BCR @ (along_BRk * _inverse(gaps_BRk, apart_BRk))
        turns_BCk += (slope_BCk - vectors_BCR @ along_BRk) * _inverse(own_B1k, alive_B1k)
        half_BCC = leading_BCk @ turns_BCk.transpose(1, 2)  # of dG, which is symmetric
        return x_BNC @ (half_BCC + half_BCC.transpose(1, 2)), None, None, None


def _by_svd(x_BNC: Tensor, sound_B11: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values [B, R], largest first, and right singular vectors [B, C, R]; those of zero values are zero."""
    _, values_BR, rows_BRC = torch.linalg.svd(torch.where(sound_B11, x_BNC, 0.0), full_matrices=False)
    return values_BR, rows_BRC.transpose(1, 2) * _alive(values_BR, _rounding(x_BNC))


def _by_eigh(x_BNC: Tensor, sound_B11: Tensor) -> tuple[Tensor, Tensor]:
    """The same from the Gram matrix of the columns or of the rows, whichever is smaller."""
    wide = x_BNC.shape[1] < x_BNC.shape[2]
    gram_BRR = x_BNC @ x_BNC.transpose(1, 2) if wide else x_BNC.transpose(1, 2) @ x_BNC
    decomposed = torch.linalg.eigh(torch.where(sound_B11, gram_BRR, 0.0))
    squares_BR, vectors_BRR = (tensor.flip(-1) for tensor in decomposed)  # eigh sorts in ascending order
    values_BR = squares_BR.clamp(min=0).sqrt()
    alive_B1R = _alive(values_BR, math.sqrt(_rounding(x_BNC)))
    if not wide:
        return values_BR, vectors_BRR * alive_B1R
    images_BCR = x_BNC.transpose(1, 2) @ vectors_BRR
    lengths_B1R = images_BCR.square().sum(1, keepdim=True).sqrt()
    return values_BR, images_BCR * _inverse(lengths_B1R, alive_B1R)


def _rounding(x_BNC: Tensor) -> float:
    """How far apart two values must be, relative to the largest, to count as different."""
    return ROUNDING * torch.finfo(x_BNC.dtype).eps


def _alive(values_BR: Tensor, share: float) -> Tensor:
    """Which singular values exceed a share of the largest, [B, 1, R]."""
    return (values_BR > share * values_BR[:, :1])[:, None]


def _inverse(values: Tensor, where: Tensor) -> Tensor:
    """1 / values where the mask holds, 0 elsewhere."""
    return torch.where(where, values, math.inf).reciprocal()


def _signs(vectors_BCR: Tensor) -> Tensor:
    """The sign that makes each vector's largest entry positive: [B, C, R] -> [B, 1, R]."""
    largest_B1R = vectors_BCR.gather(1, vectors_BCR.abs().argmax(1, keepdim=True))
    return torch.where(largest_B1R < 0, -1.0, 1.0).to(vectors_BCR.dtype)
