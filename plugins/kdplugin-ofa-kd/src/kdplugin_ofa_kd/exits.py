"""Exit heads: what turns the features at a stage of the student into logits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["chosen", "exit_heads"]

HEADS = (4, 2, 1)
"""Numbers of attention heads, the first that divides the width is taken."""


def chosen(names: Sequence[str], most: int) -> list[str]:
    """At most so many of the names, evenly spaced, always with the last one: of 12 blocks, 4 are the 3rd, 6th, 9th, 12th."""
    count = min(most, len(names))
    return [names[round((number + 1) * len(names) / count) - 1] for number in range(count)]


def exit_heads(shapes: Sequence[Sequence[int]], width: int, num_classes: int) -> nn.ModuleList:
    """A head for each exit, which makes of its features what the rest of the student makes of them.

    Maps that are larger than the last one are halved as often as they are in the student, by separable convolutions. Features
    of one size throughout are the tokens of a transformer and pass a transformer block for each exit behind.

    Args:
        shapes: of the features at each exit, shallow to deep: maps [B, C, H, W], tokens [B, N, D] or vectors [B, D].
        width: channels in front of the classifiers of maps.
        num_classes: K.
    """
    isotropic = len(shapes) > 1 and len({tuple(shape[2:]) if len(shape) == 4 else shape[1] for shape in shapes}) == 1
    heads = nn.ModuleList()
    for number, shape in enumerate(shapes):
        if len(shape) == 2:
            heads.append(nn.Linear(shape[1], num_classes))
        elif isotropic or len(shape) == 3:
            heads.append(TokenExit(shape[1] if len(shape) == 4 else shape[2], max(len(shapes) - 1 - number, 1), num_classes))
        else:
            heads.append(MapExit(shape[1], _halvings(shape, shapes[-1]), width, num_classes))
    return heads


def _halvings(shape: Sequence[int], last: Sequence[int]) -> int:
    """How often a map [B, C, H, W] is halved until it is as small as the last one."""
    if len(last) != 4:
        return 0
    return max(0, round(math.log2(shape[2] * shape[3] / (last[2] * last[3])) / 2))


class MapExit(nn.Module):
    """The exit of a convolutional stage: [B, C, H, W] -> [B, K].

    Args:
        channels: C.
        halvings: how often the map is halved; if not at all, a 1 x 1 convolution changes its width.
        width: channels in front of the classifier.
        num_classes: K.
    """

    def __init__(self, channels: int, halvings: int, width: int, num_classes: int) -> None:
        super().__init__()
        widths = [*(channels * 2**number for number in range(halvings)), width]
        blocks = [nn.Sequential(separable(a, a, 2), separable(a, b, 1)) for a, b in pairwise(widths)]
        self.body = nn.Sequential(*blocks) if blocks else nn.Conv2d(channels, width, 1)
        self.classifier = nn.Linear(width, num_classes)
        self.apply(_initialise)

    def forward(self, maps_BCHW: Tensor) -> Tensor:
        """Logits [B, K]."""
        logits_BK: Tensor = self.classifier(self.body(maps_BCHW).mean((2, 3)))
        return logits_BK


class TokenExit(nn.Module):
    """The exit of a transformer's block: tokens [B, N, D], or their map [B, D, H, W], -> [B, K].

    Args:
        width: D.
        blocks: number of transformer blocks.
        num_classes: K.
    """

    def __init__(self, width: int, blocks: int, num_classes: int) -> None:
        super().__init__()
        heads = next(count for count in HEADS if width % count == 0)
        self.body = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
                for _ in range(blocks)
            )
        )
        self.classifier = nn.Linear(width, num_classes)
        self.apply(_initialise)

    def forward(self, features: Tensor) -> Tensor:
        """Logits [B, K]."""
        tokens_BND = features.flatten(2).transpose(1, 2) if features.ndim == 4 else features
        logits_BK: Tensor = self.classifier(self.body(tokens_BND).mean(1))
        return logits_BK


def separable(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """A depthwise 3 x 3 and a pointwise convolution, normalisation and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, stride, padding=1, groups=inputs, bias=False),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        BatchNorm(outputs),
        nn.ReLU(),
    )


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation that uses the running statistics where there is a single value per channel, which has no variance."""

    def forward(self, maps_BCHW: Tensor) -> Tensor:
        """Normalised maps, [B, C, H, W]."""
        if maps_BCHW.numel() > maps_BCHW.shape[1]:
            return super().forward(maps_BCHW)
        return F.batch_norm(maps_BCHW, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


def _initialise(module: nn.Module) -> None:
    """Initial weights as in the authors' code."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
