"""The moving average of a student's weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from timm.utils import ModelEmaV3
from torch import nn

__all__ = ["Average"]


class Average:
    """An exponential moving average of a network's weights and statistics, by timm.

    Early on the decay is lower, 1 - (1 + n)^(-2/3) after n updates, so that the average forgets the random start.

    Args:
        network: whose weights are averaged.
        decay: share of the old average that each update keeps, once it has risen that far.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._ema: Any = ModelEmaV3(network, decay=decay, use_warmup=True)
        self.updates = 0

    @property
    def network(self) -> nn.Module:
        """The network with the averaged weights, in ``eval()``."""
        module: nn.Module = self._ema.module
        return module

    def update(self, network: nn.Module) -> None:
        """Take the weights after an update into the average."""
        self.updates += 1
        self._ema.update(network, step=self.updates)

    def state_dict(self) -> dict[str, Any]:
        """The average, and how many updates it is of."""
        return {"weights": self.network.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state of :meth:`state_dict`."""
        self.network.load_state_dict(state["weights"])
        self.updates = state["updates"]
