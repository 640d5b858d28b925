"""The residual networks for 32 x 32 images that distillation papers compare on.

Topology: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv:1512.03385, section 4.2, with a
projection (1x1 convolution and batch normalisation) wherever a block changes its stride or width ("option B").
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from kdzoo.naming import cifar_configs, register
from kdzoo.network import Network, he_fan_out

__all__ = ["NETWORKS", "CifarResNet"]


class BasicBlock(nn.Module):
    """conv-BN-ReLU-conv-BN, plus the shortcut, then ReLU: [B, C_in, H, W] -> [B, C_out, H/stride, W/stride]."""

    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width_out)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width_out)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or width_in != width_out:
            self.downsample = nn.Sequential(nn.Conv2d(width_in, width_out, 1, stride, bias=False), nn.BatchNorm2d(width_out))
        self.act2 = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.act1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        activated: Tensor = self.act2(out + self.downsample(x))
        return activated


class CifarResNet(Network):
    """A residual network for small images: a stem, and stages with the same number of blocks.

    Args:
        depth: number of weighted layers, projections not counted: 6n + 2 with three stages, 8n + 2 with four.
        widths: channels of the stem and of the stages.
        num_classes: outputs K; 0 omits the classifier.
        in_chans: channels of the input.
        drop_rate: dropout before the classifier.

    Shapes: [B, in_chans, H, W] -> [B, K]; the stages give [B, C, H, W], [B, C, H/2, W/2], [B, C, H/4, W/4] and so on.

    Raises:
        ValueError: there is no such depth.
    """

    def __init__(
        self,
        depth: int,
        widths: Sequence[int] = (16, 16, 32, 64),
        num_classes: int = 10,
        in_chans: int = 3,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        count = len(widths) - 1
        blocks = _blocks(depth, 2 * count)
        self.conv1 = nn.Conv2d(in_chans, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.act1 = nn.ReLU(inplace=True)
        stages = [_stage(*pair, blocks, stride=2 if number else 1) for number, pair in enumerate(pairwise(widths))]
        self.add_stages(stages, widths[1:], [2**number for number in range(count)], stem=("act1", widths[0], 1))
        self.finish(widths[-1], num_classes, drop_rate)

    def fill(self, module: nn.Module) -> None:
        """Convolutions after He."""
        he_fan_out(module)

    def forward_features(self, x: Tensor) -> Tensor:
        """[B, in_chans, H, W] -> [B, C, H/4, W/4]; half that size with four stages."""
        return self.forward_stages(self.act1(self.bn1(self.conv1(x))))


def _blocks(depth: int, layers: int) -> int:
    """Blocks per stage, given how many layers one block in every stage amounts to."""
    if depth < layers + 2 or (depth - 2) % layers:
        examples = ", ".join(str(layers * number + 2) for number in (1, 2, 3))
        raise ValueError(f"depth must be {layers}n + 2 ({examples}, ...), got {depth}")
    return (depth - 2) // layers


def _stage(width_in: int, width_out: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(width_in, width_out, stride)
    return nn.Sequential(first, *(BasicBlock(width_out, width_out, 1) for _ in range(blocks - 1)))


THIN = (16, 16, 32, 64)
WIDE = (32, 64, 128, 256)
# timm's own resnet18 and resnet26, which keep these two names, are for large images
THREE_STAGES: dict[str, dict[str, Any]] = {
    **{f"resnet{depth}": {"depth": depth, "widths": THIN} for depth in (8, 14, 20, 32, 44, 56, 110)},
    "cifar_resnet26": {"depth": 26, "widths": THIN},
    **{f"resnet{depth}x4": {"depth": depth, "widths": WIDE} for depth in (8, 32)},
}
FOUR_STAGES: dict[str, dict[str, Any]] = {"cifar_resnet18": {"depth": 18, "widths": (64, 64, 128, 256, 512)}}
NETWORKS = THREE_STAGES | FOUR_STAGES
default_cfgs = cifar_configs(NETWORKS, first_conv="conv1", classifier="fc")
register(__name__, CifarResNet, THREE_STAGES, features=4)
register(__name__, CifarResNet, FOUR_STAGES, features=5)
