"""The connector of AB, which brings the student's map to the teacher's width."""

from __future__ import annotations

import math

from torch import nn

from kdengine import Adapter

__all__ = ["Connector"]


class Connector(Adapter):
    """An adapter whose convolution is initialised from N(0, 2 / D), as in the authors' code.

    Args:
        in_channels: channels C of the maps.
        out_channels: channels D of the result.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels)
        nn.init.normal_(self.mix.weight, 0.0, math.sqrt(2 / out_channels))
