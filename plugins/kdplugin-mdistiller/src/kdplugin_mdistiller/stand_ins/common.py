"""The helpers that a file imports from ``._common``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kdengine import TapError

__all__ = ["ConvReg", "get_feat_shapes"]


class ConvReg(nn.Module):
    """Brings the student's map to the teacher's channels and size: convolution, batch normalisation and, if asked, ReLU.

    Args:
        s_shape: shape of the student's map, (B, C, H, W).
        t_shape: shape of the teacher's map.
        use_relu: whether a ReLU follows.

    Raises:
        TapError: no single convolution maps one size to the other.
    """

    def __init__(self, s_shape: Sequence[int], t_shape: Sequence[int], use_relu: bool = True) -> None:
        super().__init__()
        self.conv = _convolution(s_shape, t_shape)
        self.bn = nn.BatchNorm2d(t_shape[1])
        self.relu = nn.ReLU() if use_relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Maps [B, C, H, W] of the student -> maps of the teacher's shape."""
        mapped: Tensor = self.relu(self.bn(self.conv(x)))
        return mapped


def _convolution(s_shape: Sequence[int], t_shape: Sequence[int]) -> nn.Module:
    """Halves or doubles the map, or cuts its margin off without padding."""
    (_, inputs, *here), (_, outputs, *there) = s_shape, t_shape
    if all(mine == 2 * other for mine, other in zip(here, there, strict=True)):
        return nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)
    if all(2 * mine == other for mine, other in zip(here, there, strict=True)):
        return nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1)
    if all(mine >= other for mine, other in zip(here, there, strict=True)):
        return nn.Conv2d(inputs, outputs, (1 + here[0] - there[0], 1 + here[1] - there[1]))
    raise TapError(f"ConvReg cannot map {here} to {there}: half, twice or at least the teacher's size. Choose other taps.")


def get_feat_shapes(
    student: nn.Module, teacher: nn.Module, input_size: Sequence[int]
) -> tuple[list[torch.Size], list[torch.Size]]:
    """The shapes of ``features["feats"]`` in both networks, for one image of this size."""
    image = torch.zeros(1, 3, *input_size)
    with torch.no_grad():
        here, there = ([maps.shape for maps in network(image)[1]["feats"]] for network in (student, teacher))
    return here, there
