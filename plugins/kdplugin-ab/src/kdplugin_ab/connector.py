"""The connector of AB: brings the student's map to the width of the teacher's."""

from __future__ import annotations

import math

from torch import nn

from kdengine import Adapter

__all__ = ["Connector"]


class Connector(Adapter):
    """An adapter whose linear map begins with weights drawn from N(0, 2 / D), as in the authors' code.

    Args:
        width: channels C of the maps.
        wanted: channels D of the result.
    """

    def __init__(self, width: int, wanted: int) -> None:
        super().__init__(width, wanted)
        nn.init.normal_(self.mix.weight, 0.0, math.sqrt(2 / wanted))
