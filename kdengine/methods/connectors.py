"""Connectors that many methods need."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Adapter"]


class Adapter(nn.Module):
    """A linear map at every place, and batch normalisation: maps [B, C, H, W] -> [B, D, H, W].

    Args:
        width: channels C of the maps.
        wanted: channels D of the result.
    """

    def __init__(self, width: int, wanted: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(width, wanted, 1, bias=False)
        self.norm = nn.BatchNorm2d(wanted)

    @classmethod
    def between(cls, width: int, wanted: int) -> nn.Module:
        """An adapter where the widths differ; else nothing."""
        return nn.Identity() if width == wanted else cls(width, wanted)

    def forward(self, maps_BCHW: Tensor) -> Tensor:
        """The maps in their new width, [B, D, H, W]."""
        mixed, norm = self.mix(maps_BCHW), self.norm
        if mixed.numel() == mixed.shape[1]:  # one image with one place has no variance: the running one serves
            return F.batch_norm(mixed, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
        normalised: Tensor = norm(mixed)
        return normalised
