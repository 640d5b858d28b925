"""What a forward costs, whole or cut short."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from kdengine.taps import Recorder
from kdengine.taps.anatomy import TapPoint
from kdengine.taps.probe import copy_to

__all__ = ["count_flops"]


def count_flops(model: nn.Module, input_size: Sequence[int], until: Mapping[str, TapPoint] | None = None) -> int | None:
    """Floating-point operations of one forward of one image; a multiply-add is two.

    Args:
        model: any network; it does not run itself.
        input_size: (C, H, W).
        until: end the forward once these points have been recorded; by default it is whole.

    Returns:
        the number, or None for a network that cannot run without values.
    """
    try:
        twin = copy_to("meta", model).eval()
        images = torch.zeros(1, *input_size, device="meta")
        with (
            torch.no_grad(),
            Recorder(twin, until or {}, stop=bool(until)) as recorder,
            FlopCounterMode(display=False) as counter,
        ):
            recorder(images)
    except Exception:
        return None
    return int(counter.get_total_flops())
