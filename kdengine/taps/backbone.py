"""A network up to one tap."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kdengine.taps.anatomy import Anatomy, TapPoint
from kdengine.taps.recorder import Recorder

__all__ = ["Backbone", "modules_behind"]


class Backbone(nn.Module):
    """A network up to one tap, for methods that ship something else behind it.

    The forward runs on through the identities to the end, rather than stop at the tap, so that the network can be exported.

    Args:
        network: the network.
        point: the tap, which is not the output of the network.
        behind: paths of modules that run only after it; they are replaced by identities.
    """

    def __init__(self, network: nn.Module, point: TapPoint, behind: Sequence[str] = ()) -> None:
        super().__init__()
        for path in behind:
            network.set_submodule(path, nn.Identity())
        self.network = network
        self.point = point

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] -> the tensor at the tap, as a method reads it."""
        with Recorder(self.network, {"tap": self.point}) as recorder:
            return recorder(images)["tap"]


def modules_behind(network: nn.Module, anatomy: Anatomy, point: TapPoint, input_size: Sequence[int]) -> list[str]:
    """Paths of the modules that a network up to a tap does without, so that they are neither counted nor shipped.

    These are all modules that run only after the tensor at the tap is there; where the forward does not get through without
    them, the classifier alone.

    Args:
        network: the network; it stays as it is.
        anatomy: its anatomy.
        point: the tap.
        input_size: shape of an image, [C, H, W].
    """
    late = _later_than(anatomy.when(point), anatomy)
    parameter = next(network.parameters())
    images = torch.zeros(2, *input_size, device=parameter.device, dtype=parameter.dtype)
    try:
        with torch.no_grad():
            Backbone(copy.deepcopy(network).eval(), point, late)(images)
    except Exception:  # whatever a forward of the user's may raise on tensors of other shapes
        return [] if anatomy.classifier is None else [anatomy.classifier]
    return late


def _later_than(when: float, anatomy: Anatomy) -> list[str]:
    """Paths of the modules that run only after a time, without those inside one another.

    Modules that never run by themselves are not among them: their parent may use their weights.
    """
    first: dict[str, int] = {}
    for call in anatomy.calls:
        first[call.path] = min(first.get(call.path, call.started), call.started)
    late = {path for path, started in first.items() if path and started >= when and not path.endswith("()")}
    return sorted(path for path in late if not any(path.startswith(f"{other}.") for other in late))
