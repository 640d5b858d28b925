"""Wide residual networks for 32 x 32 images.

Topology: Zagoruyko, Komodakis, "Wide Residual Networks", BMVC 2016, arXiv:1605.07146, without dropout; pre-activation as in
He et al., "Identity Mappings in Deep Residual Networks", ECCV 2016, arXiv:1603.05027.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from kdzoo.naming import cifar_configs, register
from kdzoo.network import Network, he_fan_out

__all__ = ["NETWORKS", "WideResNet"]


class PreActivationBlock(nn.Module):
    """Twice BN-ReLU-conv, plus the shortcut: [B, C_in, H, W] -> [B, C_out, H/stride, W/stride], of either sign.

    Where the width changes, the shortcut is a 1x1 convolution of the activated input; otherwise it is the input itself.
    """

    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(width_in)
        self.act1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(width_in, width_out, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width_out)
        self.act2 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, padding=1, bias=False)
        self.downsample = nn.Conv2d(width_in, width_out, 1, stride, bias=False) if width_in != width_out else None

    def forward(self, x: Tensor) -> Tensor:
        activated = self.act1(self.bn1(x))
        shortcut = x if self.downsample is None else self.downsample(activated)
        total: Tensor = self.conv2(self.act2(self.bn2(self.conv1(activated)))) + shortcut
        return total


class WideResNet(Network):
    """Three stages of pre-activation blocks, then batch normalisation and ReLU.

    A stage ends with a raw sum, so ``stage1`` and ``stage1.pre`` are the same. The inputs of the ReLU that follows each stage,
    which activation boundaries need, are ``layer2.0.bn1``, ``layer3.0.bn1`` and ``norm``.

    Args:
        depth: number of layers by the paper's count, 6n + 4.
        widen: factor k on the 16, 32 and 64 channels of the stages.
        num_classes: outputs K; 0 omits the classifier.
        in_chans: channels of the input.
        drop_rate: dropout before the classifier.

    Shapes: [B, in_chans, H, W] -> [B, K]; the stages give [B, 16 k, H, W], [B, 32 k, H/2, W/2] and [B, 64 k, H/4, W/4].

    Raises:
        ValueError: the depth is not 6n + 4.
    """

    def __init__(self, depth: int, widen: int = 1, num_classes: int = 10, in_chans: int = 3, drop_rate: float = 0.0) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"depth must be 6n + 4 (10, 16, 22, ...), got {depth}")
        widths = [16, 16 * widen, 32 * widen, 64 * widen]
        self.conv1 = nn.Conv2d(in_chans, widths[0], 3, padding=1, bias=False)
        blocks = (depth - 4) // 6
        stages = [_stage(*pair, blocks, stride=2 if number else 1) for number, pair in enumerate(pairwise(widths))]
        self.add_stages(stages, widths[1:], (1, 2, 4), stem=("conv1", widths[0], 1))
        self.norm = nn.BatchNorm2d(widths[-1])
        self.act = nn.ReLU(inplace=True)
        self.finish(widths[-1], num_classes, drop_rate)

    def fill(self, module: nn.Module) -> None:
        """Convolutions are initialised after He; the classifier's biases start at zero."""
        he_fan_out(module)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)

    def forward_features(self, x: Tensor) -> Tensor:
        """[B, in_chans, H, W] -> [B, 64 k, H/4, W/4], never negative."""
        activated: Tensor = self.act(self.norm(self.forward_stages(self.conv1(x))))
        return activated


def _stage(width_in: int, width_out: int, blocks: int, stride: int) -> nn.Sequential:
    first = PreActivationBlock(width_in, width_out, stride)
    return nn.Sequential(first, *(PreActivationBlock(width_out, width_out, 1) for _ in range(blocks - 1)))


NETWORKS = {f"wrn_{depth}_{widen}": {"depth": depth, "widen": widen} for depth in (16, 40) for widen in (1, 2)}
default_cfgs = cifar_configs(NETWORKS, first_conv="conv1", classifier="fc")
register(__name__, WideResNet, NETWORKS, features=4)
