"""A map of a network: the call that computes it, and the layout that turns its tensor into [B, C, H, W]."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from kdengine.taps.probe import PROBE_BATCH, Call, Probe
from kdengine.taps.tensors import Layout

__all__ = ["MapOutput", "layout_of"]


class MapOutput(NamedTuple):
    """A map: the call that returns it, and how to read it.

    Attributes:
        call: the call that returns the map.
        layout: converts the returned tensor to [B, C, H, W].
        item: index of the tensor in the call's output; None for the first.
    """

    call: Call
    layout: Layout
    item: int | None = None

    @property
    def tensor(self) -> Tensor | None:
        """The map as the call returns it, on the meta device."""
        return self.call.result(self.item)[0]


def layout_of(call: Call, probe: Probe) -> Layout | None:
    """The layout that turns the call's output into a map; None if the output is not a map."""
    if call.output is None or call.output.shape[:1] != (PROBE_BATCH,):
        return None
    return Layout.of_map(call.output, aspect=probe.aspect)
