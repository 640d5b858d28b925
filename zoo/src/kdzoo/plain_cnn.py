"""Plain convolutional networks: a wide teacher of 8 convolutions, and an assistant and a student deeper and thinner.

Topology: motakuss/Knowledge-Distillation-Technique (2023), with the parameter names used there.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from kdzoo.naming import cifar_configs, register
from kdzoo.network import Network, linear

__all__ = ["NETWORKS", "ConvUnit", "PlainCNN"]

HIDDEN = 128


class ConvUnit(nn.Module):
    """3x3 convolution with bias, dropout, batch normalisation, max-pooling and ReLU: [B, C_in, H, W] -> [B, C_out, H', W'].

    Max-pooling and ReLU commute, gradients included. The ReLU comes last, so that a tap before it reads the pre-activation
    at the pooled size.
    """

    def __init__(self, width_in: int, width_out: int, drop: float = 0.0, pool: nn.Module | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width_in, width_out, 3, padding=1)
        self.drop = nn.Dropout(drop)
        self.bn = nn.BatchNorm2d(width_out)
        self.pool = pool or nn.Identity()
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, H, W] -> [B, C_out, H', W'], the size after pooling."""
        activated: Tensor = self.act(self.pool(self.bn(self.drop(self.conv(x)))))
        return activated


class PlainCNN(Network):
    """Four groups of convolutions, each ending with overlapping max-pooling, then two linear layers.

    Args:
        convolutions: how many each group has.
        widths: channels of the groups.
        num_classes: outputs K; 0 omits the last linear layer.
        in_chans: channels of the input.
        drop_rate: dropout before the last linear layer.
        conv_drop: elementwise dropout behind every convolution.

    Shapes: [B, in_chans, H, W] -> [B, K], H and W at least 31. For images of 32 x 32 the pooled stages give maps of
    15 x 15, 7 x 7, 3 x 3 and 1 x 1; for larger images the last map is averaged.
    """

    def __init__(
        self,
        convolutions: int,
        widths: Sequence[int],
        num_classes: int = 10,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        conv_drop: float = 0.0,
    ) -> None:
        super().__init__()
        before = [in_chans, *widths]
        stages = [_group(before[i], width, convolutions, conv_drop) for i, width in enumerate(widths)]
        self.add_stages(stages, widths, [2 ** (number + 1) for number in range(len(widths))])
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(widths[-1], HIDDEN), "relu": nn.ReLU(inplace=True)})
        self.finish(widths[-1], num_classes, drop_rate, hidden=HIDDEN)

    def get_classifier(self) -> nn.Module:
        """The layer that makes the logits."""
        return self.mlp["fc2"]

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the last linear layer by a fresh one, as timm does; the pooling is always the mean."""
        self.num_classes = num_classes
        self.mlp["fc2"] = linear(HIDDEN, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """[B, in_chans, H, W] -> [B, C, H', W'], 1 x 1 for images of 32 x 32."""
        return self.forward_stages(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """[B, C, H', W'] -> [B, K], or the hidden [B, 128] with ``pre_logits``."""
        hidden = self.mlp["relu"](self.mlp["fc1"](self.flatten(self.global_pool(x))))
        features: Tensor = self.head_drop(hidden)
        return features if pre_logits else self.mlp["fc2"](features)


def _group(width_in: int, width_out: int, count: int, drop: float) -> nn.Sequential:
    before = [width_in] + [width_out] * (count - 1)
    pools = [None] * (count - 1) + [nn.MaxPool2d(3, stride=2)]
    return nn.Sequential(*(ConvUnit(width, width_out, drop, pool) for width, pool in zip(before, pools, strict=True)))


NETWORKS = {
    "cnn8": {"convolutions": 2, "widths": (64, 128, 256, 512), "conv_drop": 0.2},
    "cnn12": {"convolutions": 3, "widths": (32, 64, 128, 256)},
    "cnn16": {"convolutions": 4, "widths": (16, 32, 64, 128)},
}
default_cfgs = cifar_configs(NETWORKS, first_conv="layer1.0.conv", classifier="mlp.fc2")
register(__name__, PlainCNN, NETWORKS, features=4)
