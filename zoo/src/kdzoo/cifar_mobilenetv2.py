"""MobileNetV2 of half width for 32 x 32 images, the small student of many distillation tables.

Topology: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018, arXiv:1801.04381. For small
images one of its five reductions is omitted, ReLU6 is ReLU, the first block expands too, and widths are not rounded to
multiples of 8: the form of Jin et al., "Knowledge Distillation via Route Constrained Optimization", ICCV 2019,
arXiv:1904.09149, that Tian et al., "Contrastive Representation Distillation", ICLR 2020, arXiv:1910.10699, compare on.
"""

from __future__ import annotations

from torch import Tensor, nn

from kdzoo.naming import cifar_configs, register
from kdzoo.network import Network, he_and_small_linear

__all__ = ["NETWORKS", "CifarMobileNetV2"]

STEM = 32
LAST = 1280
STAGES = (  # per stage, its groups: (expansion, channels, blocks, stride of the first); None: the network's own expansion
    ((1, 16, 1, 1), (None, 24, 2, 1)),
    ((None, 32, 3, 2),),
    ((None, 64, 4, 2), (None, 96, 3, 1)),
    ((None, 160, 3, 2), (None, 320, 1, 1)),
)


class InvertedResidual(nn.Module):
    """1x1 to more channels, depthwise 3x3, 1x1 to few: [B, C_in, H, W] -> [B, C_out, H/stride, W/stride].

    The result is not activated; the input is added to it where both have the same shape.
    """

    def __init__(self, width_in: int, width_out: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = expansion * width_in
        self.conv1 = nn.Conv2d(width_in, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, padding=1, groups=inner, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.act2 = nn.ReLU(inplace=True)
        self.conv3 = nn.Conv2d(inner, width_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width_out)
        self.residual = stride == 1 and width_in == width_out

    def forward(self, x: Tensor) -> Tensor:
        out = self.act1(self.bn1(self.conv1(x)))
        out = self.act2(self.bn2(self.conv2(out)))
        projected: Tensor = self.bn3(self.conv3(out))
        return x + projected if self.residual else projected


class CifarMobileNetV2(Network):
    """A stem of stride 2, four stages of inverted residuals, and a wide 1x1 convolution before the mean.

    Stages end without an activation, so ``stage1`` and ``stage1.pre`` are the same.

    Args:
        width: width factor of the stem and the stages.
        expansion: ratio of the channels inside a block to those of its input.
        num_classes: outputs K; 0 omits the classifier.
        in_chans: channels of the input.
        drop_rate: dropout before the classifier.

    Shapes: [B, in_chans, H, W] -> [B, K]; with width 0.5 the stages give [B, 12, H/2, W/2], [B, 16, H/4, W/4],
    [B, 48, H/8, W/8] and [B, 160, H/16, W/16], and the classifier receives [B, 1280].
    """

    def __init__(
        self,
        width: float = 0.5,
        expansion: int = 6,
        num_classes: int = 10,
        in_chans: int = 3,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        stem, last = int(STEM * width), int(LAST * max(width, 1.0))
        self.conv1 = nn.Conv2d(in_chans, stem, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.act1 = nn.ReLU(inplace=True)
        ends = [int(groups[-1][1] * width) for groups in STAGES]
        before = [stem, *ends]
        stages = [_stage(before[i], groups, width, expansion) for i, groups in enumerate(STAGES)]
        self.add_stages(stages, ends, (2, 4, 8, 16), stem=("act1", stem, 2))
        self.conv2 = nn.Conv2d(ends[-1], last, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(last)
        self.act2 = nn.ReLU(inplace=True)
        self.finish(last, num_classes, drop_rate)

    def fill(self, module: nn.Module) -> None:
        """Convolutions after He, the classifier from N(0, 0.01^2), biases zero."""
        he_and_small_linear(module)

    def forward_features(self, x: Tensor) -> Tensor:
        """[B, in_chans, H, W] -> [B, 1280, H/16, W/16], never negative."""
        x = self.forward_stages(self.act1(self.bn1(self.conv1(x))))
        activated: Tensor = self.act2(self.bn2(self.conv2(x)))
        return activated


def _stage(width_in: int, groups: tuple[tuple[int | None, int, int, int], ...], width: float, expansion: int) -> nn.Sequential:
    blocks = []
    for own_expansion, channels, count, stride in groups:
        for number in range(count):
            width_out = int(channels * width)
            blocks.append(InvertedResidual(width_in, width_out, 1 if number else stride, own_expansion or expansion))
            width_in = width_out
    return nn.Sequential(*blocks)


NETWORKS = {"cifar_mobilenetv2_half": {"width": 0.5}}
default_cfgs = cifar_configs(NETWORKS, first_conv="conv1", classifier="fc")
register(__name__, CifarMobileNetV2, NETWORKS, features=5)
