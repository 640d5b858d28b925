"""Finds the ends of a network's stages in a probe.

timm's ``feature_info`` takes precedence, then the maps that ``forward_intermediates`` returns. For any other network the
trunk decides: a stage ends with the last output at its spatial size; in a network that keeps one size throughout, the
repeated blocks are the stages.
"""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from kdengine.taps.intermediates import from_intermediates
from kdengine.taps.maps import MapOutput, layout_of
from kdengine.taps.pooled_map import GLOBAL_POOL
from kdengine.taps.probe import PROBE_BATCH, Call, Probe
from kdengine.taps.tensors import AS_IS, Layout

__all__ = ["find_stages"]

_STEM_NAME = re.compile(r"(.*\.)?(\w+_)?(stem|patch_embed)(_\w+)?(\.|$)")
_TIMM_STEM_NAME = re.compile(r"(conv1|act1|bn1)(\.|$)")


def find_stages(model: nn.Module, probe: Probe, classifier: Call | None) -> tuple[MapOutput | None, list[MapOutput]]:
    """The calls that end the stages, first to last, each with the layout that turns its output into a map.

    Returns:
        the end of the stem, if it looks like a stage and was skipped for that reason; and the stages.
    """
    named = _in_their_order(_from_feature_info(model, probe), model, probe)
    if named:
        is_stem = _is_stem(named[0][0], probe) or _TIMM_STEM_NAME.match(named[0][0].path)
        return (named[0], named[1:]) if is_stem else (None, named)
    ends = _by_spatial_size(probe, classifier)
    stem = None
    while len(ends) > 1 and _is_stem(ends[0][0], probe):
        stem = ends.pop(0)
    return stem, (ends if len(ends) > 1 else _repeated_blocks(probe) or ends)


def _from_feature_info(model: nn.Module, probe: Probe) -> list[MapOutput]:
    """The stages that timm lists; empty if any of them except the stem returned no such map in the probe."""
    info = getattr(model, "feature_info", None)
    entries: list[dict[str, Any]] = list(getattr(info, "info", info) or ())
    prefix = getattr(model, "num_prefix_tokens", None)
    features = [_feature(entry, prefix, probe) for entry in entries]
    stages = [map_output for map_output in features if map_output is not None]
    return stages if None not in features[1:] and len(stages) > 1 else []


def _in_their_order(named: list[MapOutput], model: nn.Module, probe: Probe) -> list[MapOutput]:
    """The same stages, with tokens laid out as in ``forward_intermediates``; if there are no stages, its maps."""
    if not named:
        maps = from_intermediates(model, probe)
        return maps if len(maps) > 1 else []
    tokens = [map_output for map_output in named if map_output.layout.kind == "tokens"]
    if not tokens or from_intermediates(model, probe, only_first=True) == named[:1]:
        return named
    layouts = {map_output.call: map_output.layout for map_output in from_intermediates(model, probe) if map_output.item is None}
    return [MapOutput(call, layouts.get(call, layout)) for call, layout, _ in named]


def _feature(entry: dict[str, Any], prefix: int | None, probe: Probe) -> MapOutput | None:
    call = probe.find(str(entry.get("module", "")))
    channels = entry.get("num_chs")
    if call is None or call.output is None or probe.times_called(call.path) != 1 or len(call.output) != PROBE_BATCH:
        return None
    layout = Layout.of_map(call.output, channels, prefix, probe.aspect)
    return MapOutput(call, layout) if layout is not None and layout.apply(call.output).shape[1] == channels else None


def _is_stem(call: Call, probe: Probe) -> bool:
    """Whether the path names a stem, or at most one convolution or linear layer has run by the end of this call."""
    named = _STEM_NAME.match(call.path) is not None
    return named or sum(done.layer and done.finished <= call.finished for done in probe.calls) <= 1


def _by_spatial_size(probe: Probe, classifier: Call | None) -> list[MapOutput]:
    """The last output at each spatial size on the trunk that is followed by smaller ones only."""
    ends: list[tuple[int, MapOutput]] = []
    for call in reversed(_body(probe, classifier)):
        layout = layout_of(call, probe)
        if layout is None or call.output is None:
            continue
        area = _area(call, probe)
        if area > (ends[-1][0] if ends else 0) and (area > 1 or _made_by_layers(call, probe)):
            ends.append((area, MapOutput(call, layout)))
    return [map_output for _, map_output in reversed(ends)]


def _made_by_layers(call: Call, probe: Probe) -> bool:
    """Whether a 1x1 map is the output of convolutions rather than of pooling alone."""
    return layout_of(call, probe) == AS_IS and (call.layer or probe.layers_within(call) > 0)


def _body(probe: Probe, classifier: Call | None) -> list[Call]:
    """The trunk without the head: up to the classifier, up to global pooling, and up to the last of the smallest maps.

    The latter where pixels are labelled: what follows enlarges the maps again.
    """
    trunk = [call for call in _trunk(probe) if classifier is None or call.finished < classifier.started]
    if classifier is not None and probe.logits.ndim == 4:
        wide = [call for call in trunk if _is_wide(call, probe)]
        smallest = min((_area(call, probe) for call in wide), default=0)
        ends = [number for number, call in enumerate(trunk) if _area(call, probe) == smallest]
        trunk = trunk[: ends[-1] + 1] if ends else trunk
    for number, call in enumerate(trunk):
        if GLOBAL_POOL.fullmatch(call.kind) and not any(_is_wide(later, probe) for later in trunk[number:]):
            return trunk[:number]
    return [call for call in trunk if not GLOBAL_POOL.fullmatch(call.kind)]


def _is_wide(call: Call, probe: Probe) -> bool:
    return _area(call, probe) > 1


def _trunk(probe: Probe) -> list[Call]:
    """The calls that the images pass through in sequence: the network's direct calls, with large containers expanded."""
    opened = [call for call in probe.calls if call.path == ""]
    layers = sum(call.layer for call in probe.calls)
    trunk: list[Call] = []
    while opened:
        parts = _parts(opened.pop(), probe)
        bulky = [part for part in parts if _opens(part, layers, probe)]
        opened += bulky
        trunk += [part for part in parts if part not in bulky]
    return sorted(trunk, key=lambda call: call.finished)


def _opens(call: Call, layers: int, probe: Probe) -> bool:
    """Whether a container holds several stages, or the end of one stage and the transition to the next.

    A container of several stages holds most layers of the network, and its output differs in size from one of its parts,
    or the same is true of one of its parts.
    """
    if _shrinks_at_its_end(call, probe):
        return True
    if 2 * probe.layers_within(call) <= layers:
        return False
    parts = _parts(call, probe)
    sizes = {_size(part, probe) for part in parts} - {None}
    return len(sizes | {_size(call, probe)}) > 1 or any(_opens(part, layers, probe) for part in parts)


def _shrinks_at_its_end(call: Call, probe: Probe) -> bool:
    """Whether most layers of a container are in blocks whose maps are larger than its output."""
    area = _area(call, probe)
    blocks = [part for part in _parts(call, probe) if probe.layers_within(part) > 1 and _area(part, probe) > area]
    return area > 0 and probe.layers_within(call) < 2 * sum(probe.layers_within(block) for block in blocks)


def _area(call: Call, probe: Probe) -> int:
    rows, columns = _size(call, probe) or (0, 0)
    return rows * columns


def _size(call: Call, probe: Probe) -> tuple[int, ...] | None:
    layout = layout_of(call, probe)
    return None if layout is None or call.output is None else tuple(layout.apply(call.output).shape[2:])


def _parts(call: Call, probe: Probe) -> list[Call]:
    """The direct inner calls of this one, in order."""
    parts: list[Call] = []
    for inner in sorted((inner for inner in probe.calls if call.contains(inner)), key=lambda inner: inner.started):
        if not parts or inner.started > parts[-1].finished:
            parts.append(inner)
    return parts


def _repeated_blocks(probe: Probe) -> list[MapOutput]:
    """The group of blocks of the same kind and shape that holds the most layers: ``blocks.0``, ``blocks.1`` ..."""
    groups: dict[tuple[Any, ...], list[MapOutput]] = {}
    for call in probe.calls:
        layout = layout_of(call, probe)
        if layout is not None and call.output is not None and re.search(r"\d", call.path):
            pattern = re.sub(r"\d+", "*", call.path)
            groups.setdefault((pattern, call.kind, call.output.shape), []).append(MapOutput(call, layout))
    layers = {key: sum(probe.layers_within(block.call) for block in group) for key, group in groups.items() if len(group) > 1}
    best = max(layers, key=lambda key: layers[key], default=None)
    return [] if best is None or layers[best] == 0 else groups[best]
