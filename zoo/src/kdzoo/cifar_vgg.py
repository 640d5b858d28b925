"""VGG networks for 32 x 32 images, with batch normalisation and one linear layer.

Topology: Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015,
arXiv:1409.1556, cut down for small images as in Tian et al., "Contrastive Representation Distillation", ICLR 2020,
arXiv:1910.10699: three max-poolings instead of five, then the mean over positions.
"""

from __future__ import annotations

from torch import Tensor, nn

from kdzoo.naming import cifar_configs, register
from kdzoo.network import Network, he_and_small_linear

__all__ = ["NETWORKS", "CifarVGG"]

WIDTHS = (128, 256, 512, 512)
STEM = 64


class CifarVGG(Network):
    """A stem and four stages of 3x3 convolutions; every stage but the last begins with 2x2 max-pooling.

    Args:
        convolutions: how many the stem and each stage have.
        num_classes: outputs K; 0 omits the classifier.
        in_chans: channels of the input.
        drop_rate: dropout before the classifier.

    Shapes: [B, in_chans, H, W] -> [B, K]; the stages give [B, 128, H/2, W/2], [B, 256, H/4, W/4], [B, 512, H/8, W/8] and
    again [B, 512, H/8, W/8].
    """

    def __init__(self, convolutions: int, num_classes: int = 10, in_chans: int = 3, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.stem = nn.Sequential(*_units(in_chans, STEM, convolutions))
        before = (STEM, *WIDTHS)
        pools = [[nn.MaxPool2d(2)], [nn.MaxPool2d(2)], [nn.MaxPool2d(2)], []]
        stages = [nn.Sequential(*pools[i], *_units(before[i], width, convolutions)) for i, width in enumerate(WIDTHS)]
        self.add_stages(stages, WIDTHS, (2, 4, 8, 8), stem=("stem", STEM, 1))
        self.finish(WIDTHS[-1], num_classes, drop_rate)

    def fill(self, module: nn.Module) -> None:
        """Convolutions after He, the classifier from N(0, 0.01^2), biases zero."""
        he_and_small_linear(module)

    def forward_features(self, x: Tensor) -> Tensor:
        """[B, in_chans, H, W] -> [B, 512, H/8, W/8]."""
        return self.forward_stages(self.stem(x))


def _units(width_in: int, width_out: int, count: int) -> list[nn.Module]:
    """Convolution with bias, batch normalisation and ReLU, ``count`` times."""
    layers: list[nn.Module] = []
    for number in range(count):
        layers.append(nn.Conv2d(width_out if number else width_in, width_out, 3, padding=1))
        layers += [nn.BatchNorm2d(width_out), nn.ReLU(inplace=True)]
    return layers


NETWORKS = {"vgg8": {"convolutions": 1}, "cifar_vgg13": {"convolutions": 2}}  # timm's own vgg13 is for large images
default_cfgs = cifar_configs(NETWORKS, first_conv="stem.0", classifier="fc")
register(__name__, CifarVGG, NETWORKS, features=5)
