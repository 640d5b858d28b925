"""A student of two convolutions.

Topology: the "plane" network of size 2 for CIFAR-10 in Mirzadeh et al., "Improved Knowledge Distillation via Teacher
Assistant", AAAI 2020, arXiv:1902.03393, as in its authors' code.
"""

from __future__ import annotations

from torch import Tensor, nn

from kdzoo.naming import cifar_configs, register
from kdzoo.network import Network
from kdzoo.plain_cnn import ConvUnit

__all__ = ["NETWORKS", "SmallCNN"]

GRID = 8
"""Rows and columns of the map that the classifier receives: 32, halved twice."""


class SmallCNN(Network):
    """Twice a 3x3 convolution, batch normalisation, ReLU and 2x2 max-pooling; then one linear layer over all positions.

    The pooling comes before the ReLU, which gives the same result.

    Args:
        widths: channels of the two convolutions.
        num_classes: outputs K; 0 omits the classifier.
        in_chans: channels of the input.
        drop_rate: dropout before the classifier.

    Shapes: [B, in_chans, H, W] -> [B, K]; the pooled stages give [B, C, H/2, W/2] and [B, C, H/4, W/4]. The classifier
    receives [B, 64 C]: for image sizes other than 32 x 32 the maps are first averaged to 8 x 8.
    """

    def __init__(
        self, widths: tuple[int, int] = (16, 16), num_classes: int = 10, in_chans: int = 3, drop_rate: float = 0.0
    ) -> None:
        super().__init__()
        first, second = widths
        self.conv1 = nn.Conv2d(in_chans, first, 3, padding=1)
        lower = nn.Sequential(nn.BatchNorm2d(first), nn.MaxPool2d(2), nn.ReLU(inplace=True))
        upper = ConvUnit(first, second, pool=nn.MaxPool2d(2))
        self.add_stages([lower, upper], widths, (2, 4), stem=("conv1", first, 1))
        self.finish(second, num_classes, drop_rate, places=GRID)

    def forward_features(self, x: Tensor) -> Tensor:
        """[B, in_chans, H, W] -> [B, C, H/4, W/4]."""
        return self.forward_stages(self.conv1(x))


NETWORKS = {"cnn2": {"widths": (16, 16)}}
default_cfgs = cifar_configs(NETWORKS, first_conv="conv1", classifier="fc")
register(__name__, SmallCNN, NETWORKS, features=3)
