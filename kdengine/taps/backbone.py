"""A network up to one tap."""

from __future__ import annotations

from torch import Tensor, nn

from kdengine.taps.anatomy import TapPoint
from kdengine.taps.recorder import Recorder

__all__ = ["Backbone"]


class Backbone(nn.Module):
    """A network up to one tap, without its classifier, for methods that ship something else behind it.

    Args:
        network: the network; its classifier is replaced by an identity.
        point: the tap, before the classifier.
        classifier: path of the classifier, if the network has one.
    """

    def __init__(self, network: nn.Module, point: TapPoint, classifier: str | None) -> None:
        super().__init__()
        if classifier is not None:
            network.set_submodule(classifier, nn.Identity())
        self.network = network
        self.point = point

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] -> the tensor at the tap, as a method reads it."""
        with Recorder(self.network, {"tap": self.point}) as recorder:
            return recorder(images)["tap"]
