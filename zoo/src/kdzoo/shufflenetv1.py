"""ShuffleNet (version 1) for 32 x 32 images.

Topology: Zhang et al., "ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile Devices", CVPR 2018,
arXiv:1707.01083, with 3 groups. For small images the stem is a 1x1 convolution that keeps their size, and there is a ReLU
behind the 3x3 convolutions, as in Tian et al., "Contrastive Representation Distillation", ICLR 2020, arXiv:1910.10699.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kdzoo.naming import cifar_configs, register
from kdzoo.network import Network

__all__ = ["NETWORKS", "ShuffleNetV1", "shuffle"]

STEM = 24


def shuffle(x: Tensor, groups: int) -> Tensor:
    """Interleave the channels of all groups: [B, C, H, W] -> [B, C, H, W]."""
    grouped: Tensor = x.unflatten(1, (groups, -1))
    return grouped.transpose(1, 2).flatten(1, 2)


class GroupedBlock(nn.Module):
    """Grouped 1x1, shuffling, depthwise 3x3, grouped 1x1, plus the shortcut, then ReLU.

    [B, C_in, H, W] -> [B, C_out, H, W] where the widths are equal; otherwise the size is halved, and the new channels are
    concatenated with the average-pooled old ones.
    """

    def __init__(self, width_in: int, width_out: int, groups: int) -> None:
        super().__init__()
        self.halves = width_in != width_out
        new = width_out - width_in if self.halves else width_out
        inner = new // 4
        self.groups = groups if width_in > STEM else 1  # so few channels are not grouped
        self.conv1 = nn.Conv2d(width_in, inner, 1, groups=self.groups, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(inner, inner, 3, 2 if self.halves else 1, padding=1, groups=inner, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.act2 = nn.ReLU(inplace=True)
        self.conv3 = nn.Conv2d(inner, new, 1, groups=groups, bias=False)
        self.bn3 = nn.BatchNorm2d(new)
        self.downsample = nn.AvgPool2d(3, stride=2, padding=1) if self.halves else nn.Identity()
        self.act3 = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = shuffle(self.act1(self.bn1(self.conv1(x))), self.groups)
        out = self.act2(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        old = self.downsample(x)
        activated: Tensor = self.act3(torch.cat((out, old), 1) if self.halves else out + old)
        return activated


class ShuffleNetV1(Network):
    """A stem of 24 channels and three stages of grouped convolutions.

    Args:
        widths: channels of the stages.
        blocks: how many blocks each stage has.
        groups: number of groups of the 1x1 convolutions.
        num_classes: outputs K; 0 omits the classifier.
        in_chans: channels of the input.
        drop_rate: dropout before the classifier.

    Shapes: [B, in_chans, H, W] -> [B, K]; the stages give [B, 240, H/2, W/2], [B, 480, H/4, W/4] and [B, 960, H/8, W/8].
    """

    def __init__(
        self,
        widths: Sequence[int] = (240, 480, 960),
        blocks: Sequence[int] = (4, 8, 4),
        groups: int = 3,
        num_classes: int = 10,
        in_chans: int = 3,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_chans, STEM, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.act1 = nn.ReLU(inplace=True)
        before = [STEM, *widths]
        stages = [_stage(before[i], widths[i], count, groups) for i, count in enumerate(blocks)]
        self.add_stages(stages, widths, [2 ** (number + 1) for number in range(len(widths))], stem=("act1", STEM, 1))
        self.finish(widths[-1], num_classes, drop_rate)

    def forward_features(self, x: Tensor) -> Tensor:
        """[B, in_chans, H, W] -> [B, 960, H/8, W/8]."""
        return self.forward_stages(self.act1(self.bn1(self.conv1(x))))


def _stage(width_in: int, width_out: int, blocks: int, groups: int) -> nn.Sequential:
    first = GroupedBlock(width_in, width_out, groups)
    return nn.Sequential(first, *(GroupedBlock(width_out, width_out, groups) for _ in range(blocks - 1)))


NETWORKS = {"shufflenetv1": {"groups": 3}}
default_cfgs = cifar_configs(NETWORKS, first_conv="conv1", classifier="fc")
register(__name__, ShuffleNetV1, NETWORKS, features=4)
