"""Compiled forward passes, for those in which nothing inside the network is recorded."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from kdengine.networks.inputs import Preprocess
from kdengine.taps.anatomy import TapPoint

__all__ = ["Forwards"]

log = logging.getLogger(__name__)


class Forwards:
    """The forms in which a network may run: as it is, or compiled.

    Not a module, so that a compiled network does not appear among the weights of the one it is made of.

    Args:
        network: the network.
        preprocess: what comes before it.
        compiled: whether to compile it, at its first forward.
    """

    def __init__(self, network: nn.Module, preprocess: Preprocess | None, compiled: bool) -> None:
        self.plain = network if preprocess is None else preprocess.before(network)
        self._compiled: Any = torch.compile(self.plain) if compiled else None
        self._told = False

    def fit_for(self, points: Mapping[str, TapPoint]) -> nn.Module:
        """The network to record some points in: compiled, if they all are its output."""
        if self._compiled is None:
            return self.plain
        inner = [name for name, point in points.items() if point.path]
        if not inner:
            network: nn.Module = self._compiled
            return network
        if not self._told:
            log.info("Not compiled, because '%s' is read inside it: %s", inner[0], type(self.plain).__name__)
            self._told = True
        return self.plain
