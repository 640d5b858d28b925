"""Connectors shared by several methods."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Adapter", "projector"]


class Adapter(nn.Module):
    """A 1x1 convolution and batch normalisation: maps [B, C, H, W] -> [B, D, H, W].

    Args:
        in_channels: channels C of the maps.
        out_channels: channels D of the output.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)

    @classmethod
    def between(cls, in_channels: int, out_channels: int) -> nn.Module:
        """An adapter if the numbers of channels differ, else an identity."""
        return nn.Identity() if in_channels == out_channels else cls(in_channels, out_channels)

    def forward(self, maps_BCHW: Tensor) -> Tensor:
        """Maps with ``out_channels`` channels, [B, D, H, W]."""
        mixed, norm = self.mix(maps_BCHW), self.norm
        if mixed.numel() == mixed.shape[1]:  # a single value per channel has no variance: use the running statistics
            return F.batch_norm(mixed, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
        normalised: Tensor = norm(mixed)
        return normalised


def projector(kind: str, inputs: int, outputs: int) -> nn.Module:
    """A connector of vectors: [..., inputs] -> [..., outputs].

    Args:
        kind: ``"linear"``, one layer; or ``"mlp"``, two, with normalisation and GELU between them.
        inputs: length of the vectors.
        outputs: length of the output.
    """
    if kind == "linear":
        return nn.Linear(inputs, outputs)
    return nn.Sequential(nn.Linear(inputs, outputs), nn.LayerNorm(outputs), nn.GELU(), nn.Linear(outputs, outputs))
