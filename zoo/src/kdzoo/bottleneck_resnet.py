"""Residual networks of bottleneck blocks with dropout inside, for 32 x 32 images: teacher, assistant, student.

Topology: the deep networks of He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv:1512.03385,
section 4.1, with a stem that keeps the size of the image. Dropout and the two networks that are thinner and deeper than
ResNet-50 are those of motakuss/Knowledge-Distillation-Technique (2023).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from kdzoo.naming import cifar_configs, register
from kdzoo.network import Network

__all__ = ["NETWORKS", "BottleneckResNet"]

EXPANSION = 4
"""Ratio of a block's output width to the width of its 3x3 convolution."""


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution, plus the shortcut, then ReLU: [B, C_in, H, W] -> [B, 4 C, H/stride, W/stride].

    Batch normalisation and elementwise dropout follow every convolution, and a ReLU the first two.
    """

    def __init__(self, width_in: int, width: int, stride: int, drop: float) -> None:
        super().__init__()
        width_out = EXPANSION * width
        self.conv1 = nn.Conv2d(width_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.drop1 = nn.Dropout(drop)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.drop2 = nn.Dropout(drop)
        self.act2 = nn.ReLU(inplace=True)
        self.conv3 = nn.Conv2d(width, width_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width_out)
        self.drop3 = nn.Dropout(drop)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or width_in != width_out:
            self.downsample = nn.Sequential(nn.Conv2d(width_in, width_out, 1, stride, bias=False), nn.BatchNorm2d(width_out))
        self.act3 = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.act1(self.drop1(self.bn1(self.conv1(x))))
        out = self.act2(self.drop2(self.bn2(self.conv2(out))))
        out = self.drop3(self.bn3(self.conv3(out)))
        activated: Tensor = self.act3(out + self.downsample(x))
        return activated


class BottleneckResNet(Network):
    """Four stages of bottleneck blocks behind a 3x3 stem.

    Args:
        blocks: how many blocks each stage has.
        width: channels of the stem, and of the 3x3 convolutions of the first stage; they double from stage to stage.
        num_classes: outputs K; 0 omits the classifier.
        in_chans: channels of the input.
        drop_rate: dropout before the classifier.
        block_drop: dropout inside the blocks.

    Shapes: [B, in_chans, H, W] -> [B, K]; stage i gives [B, 4 * width * 2^(i - 1), H / 2^(i - 1), W / 2^(i - 1)].
    """

    def __init__(
        self,
        blocks: Sequence[int],
        width: int = 64,
        num_classes: int = 10,
        in_chans: int = 3,
        drop_rate: float = 0.3,
        block_drop: float = 0.3,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_chans, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.act1 = nn.ReLU(inplace=True)
        reductions = [2**number for number in range(len(blocks))]
        inner = [width * reduction for reduction in reductions]
        outer = [EXPANSION * channels for channels in inner]
        before = [width, *outer]
        stages = [_stage(before[i], inner[i], count, 2 if i else 1, block_drop) for i, count in enumerate(blocks)]
        self.add_stages(stages, outer, reductions, stem=("act1", width, 1))
        self.finish(outer[-1], num_classes, drop_rate)

    def forward_features(self, x: Tensor) -> Tensor:
        """[B, in_chans, H, W] -> [B, 32 * width, H/8, W/8] with four stages."""
        return self.forward_stages(self.act1(self.bn1(self.conv1(x))))


def _stage(width_in: int, width: int, blocks: int, stride: int, drop: float) -> nn.Sequential:
    first = Bottleneck(width_in, width, stride, drop)
    return nn.Sequential(first, *(Bottleneck(EXPANSION * width, width, 1, drop) for _ in range(blocks - 1)))


NETWORKS = {
    "cifar_resnet50": {"blocks": (3, 4, 6, 3), "width": 64},  # timm's own resnet50 is for large images
    "resnet71": {"blocks": (4, 6, 9, 4), "width": 32},
    "resnet98": {"blocks": (6, 8, 12, 6), "width": 16},
}
default_cfgs = cifar_configs(NETWORKS, first_conv="conv1", classifier="fc")
register(__name__, BottleneckResNet, NETWORKS, features=5)
