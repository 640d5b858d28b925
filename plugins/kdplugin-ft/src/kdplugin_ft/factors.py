"""The networks that make factors of feature maps, and the comparison of factors."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from kdengine import l2_normalize, match_spatial

__all__ = ["Paraphraser", "factor_loss", "translator"]

SLOPE = 0.1
"""Slope of the rectifiers below zero."""


def _layers(widths: list[int]) -> nn.Sequential:
    """3 x 3 convolutions of these widths, each followed by a leaky rectifier."""
    pairs = itertools.pairwise(widths)
    return nn.Sequential(
        *(layer for a, b in pairs for layer in (nn.Conv2d(a, b, 3, padding=1), nn.LeakyReLU(SLOPE)))  # the last one too
    )


class Paraphraser(nn.Module):
    """An autoencoder of the teacher's maps, whose code is the factor.

    Args:
        channels: channels C of the maps.
        factors: channels of the code.
    """

    def __init__(self, channels: int, factors: int) -> None:
        super().__init__()
        self.encoder = _layers([channels, channels, factors, factors])
        self.decoder = _layers([factors, factors, channels, channels])

    def forward(self, maps: Tensor) -> Tensor:
        """The reconstruction of maps [B, C, H, W]."""
        decoded: Tensor = self.decoder(self.encoder(maps))
        return decoded

    @torch.no_grad()
    def factor(self, maps: Tensor) -> Tensor:
        """The factor of maps [B, C, H, W], [B, F, H, W], without gradients."""
        factor: Tensor = self.encoder(maps)
        return factor


def translator(channels: int, factors: int) -> nn.Sequential:
    """Makes a factor [B, F, H, W] of the student's maps [B, C, H, W]; trained with the student."""
    return _layers([channels, channels, factors, factors])


def factor_loss(student_BFHW: Tensor, teacher_BFHW: Tensor, by_position: bool = False) -> Tensor:
    """Mean absolute difference of two factors, each scaled to length 1 as a whole; [].

    Args:
        student_BFHW: [B, F, H, W].
        teacher_BFHW: [B, F, H', W']; the larger map is average-pooled to the size of the smaller one.
        by_position: compare the mean square of each position over the channels, [B, H, W], in the place of the factor.
    """
    factors = match_spatial(student_BFHW, teacher_BFHW)
    ours, theirs = (each.square().mean(1) if by_position else each for each in factors)
    return (l2_normalize(ours.flatten(1)) - l2_normalize(theirs.flatten(1))).abs().mean()
