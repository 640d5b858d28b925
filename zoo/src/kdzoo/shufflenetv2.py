"""ShuffleNet V2 for 32 x 32 images.

Topology: Ma et al., "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design", ECCV 2018,
arXiv:1807.11164, the widths of 1x. For small images the stem is a 1x1 convolution that keeps their size, as in Tian et al.,
"Contrastive Representation Distillation", ICLR 2020, arXiv:1910.10699.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kdzoo.naming import cifar_configs, register
from kdzoo.network import Network
from kdzoo.shufflenetv1 import shuffle

__all__ = ["NETWORKS", "ShuffleNetV2"]

STEM = 24


class SplitBlock(nn.Module):
    """Half of the channels bypass the branch of 1x1, depthwise 3x3 and 1x1: [B, C, H, W] -> [B, C, H, W].

    The ReLU at the end of the paper's branch comes last here, over both halves. The result is the same, since what bypasses
    the branch is never negative, and a tap before the ReLU reads the whole map.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(*_branch(width // 2, width // 2, stride=1))
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        one, other = x.chunk(2, 1)
        activated: Tensor = self.act(shuffle(torch.cat((one, self.branch(other)), 1), 2))
        return activated


class DownBlock(nn.Module):
    """Two branches on all channels, both halving the size: [B, C_in, H, W] -> [B, C_out, H/2, W/2]."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        half = width_out // 2
        self.downsample = nn.Sequential(*_depthwise(width_in, stride=2), *_pointwise(width_in, half))
        self.branch = nn.Sequential(*_branch(width_in, half, stride=2))
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        activated: Tensor = self.act(shuffle(torch.cat((self.downsample(x), self.branch(x)), 1), 2))
        return activated


class ShuffleNetV2(Network):
    """A stem of 24 channels, three stages of split and shuffled channels, and a wide 1x1 convolution before the mean.

    Args:
        widths: channels of the stages.
        blocks: how many blocks each stage has.
        last: channels of the last convolution.
        num_classes: outputs K; 0 omits the classifier.
        in_chans: channels of the input.
        drop_rate: dropout before the classifier.

    Shapes: [B, in_chans, H, W] -> [B, K]; the stages give [B, 116, H/2, W/2], [B, 232, H/4, W/4] and [B, 464, H/8, W/8],
    and the classifier receives [B, 1024].
    """

    def __init__(
        self,
        widths: Sequence[int] = (116, 232, 464),
        blocks: Sequence[int] = (4, 8, 4),
        last: int = 1024,
        num_classes: int = 10,
        in_chans: int = 3,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_chans, STEM, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.act1 = nn.ReLU(inplace=True)
        before = [STEM, *widths]
        stages = [_stage(before[i], widths[i], count) for i, count in enumerate(blocks)]
        self.add_stages(stages, widths, [2 ** (number + 1) for number in range(len(widths))], stem=("act1", STEM, 1))
        self.conv2 = nn.Conv2d(widths[-1], last, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(last)
        self.act2 = nn.ReLU(inplace=True)
        self.finish(last, num_classes, drop_rate)

    def forward_features(self, x: Tensor) -> Tensor:
        """[B, in_chans, H, W] -> [B, 1024, H/8, W/8]."""
        x = self.forward_stages(self.act1(self.bn1(self.conv1(x))))
        activated: Tensor = self.act2(self.bn2(self.conv2(x)))
        return activated


def _stage(width_in: int, width_out: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(DownBlock(width_in, width_out), *(SplitBlock(width_out) for _ in range(blocks - 1)))


def _branch(width_in: int, width_out: int, stride: int) -> list[nn.Module]:
    """1x1, BN, ReLU, depthwise 3x3, BN, 1x1, BN."""
    entry = [*_pointwise(width_in, width_out), nn.ReLU(inplace=True)]
    return [*entry, *_depthwise(width_out, stride), *_pointwise(width_out, width_out)]


def _pointwise(width_in: int, width_out: int) -> list[nn.Module]:
    return [nn.Conv2d(width_in, width_out, 1, bias=False), nn.BatchNorm2d(width_out)]


def _depthwise(width: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(width, width, 3, stride, padding=1, groups=width, bias=False), nn.BatchNorm2d(width)]


NETWORKS = {"shufflenetv2": {"widths": (116, 232, 464)}}
default_cfgs = cifar_configs(NETWORKS, first_conv="conv1", classifier="fc")
register(__name__, ShuffleNetV2, NETWORKS, features=4)
