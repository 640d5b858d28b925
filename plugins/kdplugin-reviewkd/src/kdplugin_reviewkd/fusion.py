"""Attention-based fusion: the deeper levels of the student join the one at hand, weighed position by position."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdengine import Adapter

__all__ = ["Fusion", "enlarge"]

# B: batch, C: channels of the student's map, M: channels in which levels are fused, D: channels of the teacher's map.

Size = Sequence[int]


class Fusion(nn.Module):
    """One level of the review: fuses a map of the student with what the deeper levels gave, and predicts the teacher's.

    x = BN(1x1 s);  (a, b) = sigmoid(1x1 [x; y]);  x <- a x + b y;  out = BN(3x3 x)

    where y is the residual of the level below, enlarged to the size of s. The deepest level has none: x stays as it is.

    Args:
        channels: channels C of the student's map.
        middle: channels M in which the levels are fused.
        wanted: channels D of the teacher's map.
        size: height and width of the teacher's map.
        deepest: whether no level comes before this one.
    """

    def __init__(self, channels: int, middle: int, wanted: int, size: Size, deepest: bool) -> None:
        super().__init__()
        self.size = tuple(size)
        self.enter = Adapter(channels, middle)
        self.leave = Adapter(middle, wanted)
        self.leave.mix = nn.Conv2d(middle, wanted, 3, padding=1, bias=False)
        self.gate = None if deepest else nn.Conv2d(2 * middle, 2, 1)
        for convolution in (self.enter.mix, self.leave.mix):
            nn.init.kaiming_uniform_(convolution.weight, a=1)

    def forward(self, student_BCHW: Tensor, deeper: Tensor | None) -> tuple[Tensor, Tensor]:
        """The prediction of the teacher's map, [B, D, *size], and the residual for the next level, [B, M, *size]."""
        fused = self.enter(student_BCHW)
        if self.gate is not None and deeper is not None:
            fused = self._join(fused, deeper)
        residual = enlarge(fused, self.size)
        return self.leave(residual), residual

    def _join(self, own: Tensor, deeper: Tensor) -> Tensor:
        """a x + b y: a 1x1 convolution commutes with the enlarging, so that the gates read y before it grows."""
        assert self.gate is not None
        of_own, of_deeper = self.gate.weight.chunk(2, dim=1)
        size = own.shape[2:]
        logits = F.conv2d(own, of_own, self.gate.bias) + enlarge(F.conv2d(deeper, of_deeper), size)
        a, b = torch.sigmoid(logits).chunk(2, dim=1)
        return torch.addcmul(a * own, b, enlarge(deeper, size))


def enlarge(maps: Tensor, size: Size) -> Tensor:
    """The nearest neighbours of maps at another size: [B, C, H, W] -> [B, C, *size]."""
    height, width = size
    if maps.shape[2:] == (height, width):
        return maps
    if maps.shape[2:] == (1, 1):
        return maps.expand(-1, -1, height, width)
    return F.interpolate(maps, (height, width), mode="nearest")
