"""The residual networks for 32 x 32 images that distillation papers compare on.

Topology: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2, with a projection
(1x1 convolution and batch normalisation) wherever a block changes its stride or width ("option B").
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from kdzoo.naming import cifar_configs, register

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
        return self.act2(out + self.downsample(x))


class CifarResNet(nn.Module):
    """A residual network of three stages for small images.

    Args:
        depth: number of weighted layers, 6n + 2.
        widths: channels of the stem and of the three stages.
        num_classes: outputs K; 0 leaves the classifier out.
        in_chans: channels of the input.
        drop_rate: dropout before the classifier.

    Shapes: [B, in_chans, H, W] -> [B, K]; the stages give [B, C, H, W], [B, C, H/2, W/2] and [B, C, H/4, W/4].

    Raises:
        ValueError: the depth is not 6n + 2.
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
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"depth must be 6n + 2 (8, 14, 20, ...), got {depth}")
        blocks = (depth - 2) // 6
        stem, *stages = widths
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = stages[-1]
        self.conv1 = nn.Conv2d(in_chans, stem, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.act1 = nn.ReLU(inplace=True)
        self.layer1 = _stage(stem, stages[0], blocks, stride=1)
        self.layer2 = _stage(stages[0], stages[1], blocks, stride=2)
        self.layer3 = _stage(stages[1], stages[2], blocks, stride=2)
        self.global_pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten(1)
        self.head_drop = nn.Dropout(drop_rate)
        self.fc: nn.Module = nn.Linear(stages[2], num_classes) if num_classes else nn.Identity()
        self.feature_info = [
            {"num_chs": width, "reduction": reduction, "module": module}
            for width, reduction, module in zip(widths, (1, 1, 2, 4), ("act1", "layer1", "layer2", "layer3"), strict=True)
        ]
        self.apply(_he_fan_out)

    def get_classifier(self) -> nn.Module:
        """The layer that makes the logits."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a fresh one (timm's convention; the pooling is always the mean)."""
        self.num_classes = num_classes
        self.fc = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def forward_features(self, x: Tensor) -> Tensor:
        """[B, in_chans, H, W] -> [B, C, H/4, W/4]."""
        x = self.act1(self.bn1(self.conv1(x)))
        return self.layer3(self.layer2(self.layer1(x)))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """[B, C, H, W] -> [B, K], or the pooled [B, C] with ``pre_logits``."""
        x = self.head_drop(self.flatten(self.global_pool(x)))
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_chans, H, W] -> [B, K]."""
        return self.forward_head(self.forward_features(x))


def _stage(width_in: int, width_out: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(width_in, width_out, stride)
    return nn.Sequential(first, *(BasicBlock(width_out, width_out, 1) for _ in range(blocks - 1)))


def _he_fan_out(module: nn.Module) -> None:
    """Convolutions are drawn from N(0, 2 / (k^2 C_out)); He et al., "Delving Deep into Rectifiers", 2015."""
    if isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
        nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / fan_out))


THIN = (16, 16, 32, 64)
WIDE = (32, 64, 128, 256)
NETWORKS = {
    **{f"resnet{depth}": {"depth": depth, "widths": THIN} for depth in (8, 14, 20, 32, 44, 56, 110)},
    **{f"resnet{depth}x4": {"depth": depth, "widths": WIDE} for depth in (8, 32)},
}
default_cfgs = cifar_configs(NETWORKS, first_conv="conv1", classifier="fc")
register(__name__, CifarResNet, NETWORKS, features=4)
