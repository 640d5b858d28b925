"""Finds the map that a network pools into its embedding."""

from __future__ import annotations

import re

from kdengine.taps.maps import MapOutput
from kdengine.taps.probe import PROBE_BATCH, Call, Probe
from kdengine.taps.tensors import Layout

__all__ = ["GLOBAL_POOL", "find_pooled_map"]

GLOBAL_POOL = re.compile(r"(Adaptive|Select|Global|Attention).*Pool.*")
"""Class names of modules that pool a whole map."""


def find_pooled_map(stages: list[MapOutput], classifier: Call, width: int, probe: Probe) -> MapOutput | None:
    """The last map before the classifier with as many channels as its input, of the size of the last stage.

    That is the last stage itself, or what further layers and normalisations make of it. Where layers behind the pooling change
    the width there is none, and the last stage stands for it.

    Args:
        stages: the ends of the stages, first to last.
        classifier: the call that makes the logits.
        width: channels of the classifier's input.
        probe: the pass that recorded them.
    """
    if not stages:
        return None
    last = stages[-1]
    assert last.tensor is not None
    sides = last.layout.apply(last.tensor).shape[2:]
    behind = [call for call in probe.calls if last.call.finished <= call.finished < classifier.started and call.path]
    pools = [call for call in behind if GLOBAL_POOL.fullmatch(call.kind)]
    for call in reversed(behind):
        layout = None if any(pool is call or pool.contains(call) for pool in pools) else _layout(call, last, width, probe)
        if layout is not None and call.output is not None and layout.apply(call.output).shape[2:] == sides:
            return last if call.output is last.tensor and not call.output_overwritten else MapOutput(call, layout)
    return last


def _layout(call: Call, last: MapOutput, width: int, probe: Probe) -> Layout | None:
    """How the output of a call becomes a map of so many channels; None if it does not. Tokens lie as in the last stage."""
    output = call.output
    if output is None or output.shape[:1] != (PROBE_BATCH,):
        return None
    if output.ndim == 3 and last.layout.kind == "tokens" and output.shape[1] == last.layout.prefix + _places(last):
        layout: Layout | None = last.layout
    else:
        layout = Layout.of_map(output, width, aspect=probe.aspect)
    return layout if layout is not None and layout.apply(output).shape[1] == width else None


def _places(last: MapOutput) -> int:
    rows, columns = last.layout.grid
    return rows * columns
