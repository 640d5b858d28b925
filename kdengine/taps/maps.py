"""A map of a network: the call that makes it, and how its tensor becomes [B, C, H, W]."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from kdengine.taps.probe import PROBE_BATCH, Call, Probe
from kdengine.taps.tensors import Layout

__all__ = ["MapOutput", "layout_of"]


class MapOutput(NamedTuple):
    """Where a map is found.

    Attributes:
        call: the call that returns it.
        layout: what makes [B, C, H, W] of it.
        item: which tensor of the call's result; None for the first.
    """

    call: Call
    layout: Layout
    item: int | None = None

    @property
    def tensor(self) -> Tensor | None:
        """The map as the call returns it, on the meta device."""
        return self.call.result(self.item)[0]


def layout_of(call: Call, probe: Probe) -> Layout | None:
    """The layout that makes a map of the call's output, or None where that is none."""
    if call.output is None or call.output.shape[:1] != (PROBE_BATCH,):
        return None
    return Layout.of_map(call.output, aspect=probe.aspect)
