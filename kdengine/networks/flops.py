"""Counts the FLOPs of a forward, complete or stopped at a tap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from kdengine.taps import Recorder
from kdengine.taps.anatomy import TapPoint
from kdengine.taps.twin import QuickBatchNorm, copy_to

__all__ = ["count_flops"]


def count_flops(model: nn.Module, input_size: Sequence[int], until: Mapping[str, TapPoint] | None = None) -> int | None:
    """Floating-point operations of one forward of one image; a multiply-add counts as two.

    Args:
        model: any network; only a copy of it runs.
        input_size: (C, H, W).
        until: stop the forward once these points have been recorded; by default it runs to the end.

    Returns:
        the number, or None for a network that cannot run on the meta device.
    """
    try:
        twin = copy_to("meta", model).eval()
        images = torch.zeros(1, *input_size, device="meta")
        with (
            torch.no_grad(),
            QuickBatchNorm(),
            Recorder(twin, until or {}, stop=bool(until)) as recorder,
            FlopCounterMode(display=False) as counter,
        ):
            recorder(images)
    except Exception:
        return None
    return int(counter.get_total_flops())
