"""Where a network's stages, stem, classifier and embedding are, from what a probe pass saw.

timm's ``feature_info`` and ``get_classifier()`` are believed first; any other network is read off the probe: a stage
ends with the last output at its spatial size, and the classifier is the last linear layer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from torch import nn

from kdengine.taps.probe import Call, Probe
from kdengine.taps.tensors import Layout

__all__ = ["Landmark", "activation_behind", "find_classifier", "find_stages", "find_stem"]

Landmark = tuple[Call, Layout]
_STEM_NAME = re.compile(r"(stem|conv1|act1|bn1|patch_embed)(\.|$)")
_WEIGHTED = re.compile(r".*(Conv|Linear).*")


def find_stages(model: nn.Module, probe: Probe) -> list[Landmark]:
    """The calls that end the stages, first to last, each with the layout that makes a map of its output."""
    named = list(_from_feature_info(model, probe))
    if len(named) > 1 and (_STEM_NAME.match(named[0][0].path) or _is_bare(named[0][0], probe)):
        named = named[1:]
    return named or _by_spatial_size(probe) or _token_blocks(probe)


def find_stem(probe: Probe, stages: list[Landmark]) -> Landmark | None:
    """The last map that was finished before the first stage began; within one flat list, the first activation."""
    if not stages:
        return None
    first = stages[0][0]
    before = [call for call in probe.calls if call.finished < first.started and _map_layout(call) is not None]
    if "." not in first.path or not before:
        flat = [call for call in probe.calls if call.activation and call.finished < first.started]
        before = before if first.kind in ("Sequential", "ModuleList") else flat[:1] or before
    return _with_layout(before[-1]) if before else None


def find_classifier(model: nn.Module, probe: Probe) -> Call | None:
    """The call of the layer that makes the logits: timm's ``get_classifier()``, or the last linear layer of that size."""
    getter = getattr(model, "get_classifier", None)
    layer = getter() if callable(getter) else None
    modules = dict(model.named_modules())
    said = next((path for path, module in modules.items() if path and module is layer), None)
    if said is not None and probe.times_called(said) and not isinstance(layer, (nn.Identity, nn.ModuleList)):
        return probe.find(said, probe.times_called(said) - 1)
    for call in reversed(probe.calls):
        module = modules.get(call.path)
        if isinstance(module, (nn.Linear, nn.Conv2d)) and call.output is not None:
            outputs = module.out_features if isinstance(module, nn.Linear) else module.out_channels
            if outputs == probe.logits.shape[-1]:
                return call
    return None


def activation_behind(probe: Probe, stage: Call) -> Call | None:
    """The activation whose result is, unchanged, the output of the stage; None if the stage ends otherwise."""
    ends = (call for call in reversed(probe.calls) if call.activation and call.output is stage.output)
    return next(ends, None)


def _from_feature_info(model: nn.Module, probe: Probe) -> Iterator[Landmark]:
    """The stages as timm lists them, or nothing at all when one of them names no module that made such a map."""
    info = getattr(model, "feature_info", None)
    entries: list[dict[str, Any]] = list(getattr(info, "info", info) or ())
    found = []
    for entry in entries:
        call = probe.find(str(entry.get("module", "")))
        if call is None or call.output is None or probe.times_called(call.path) != 1:
            return
        layout = Layout.of_map(call.output, entry.get("num_chs"), getattr(model, "num_prefix_tokens", None))
        if layout is None or layout.apply(call.output).shape[1] != entry.get("num_chs"):
            return
        found.append((call, layout))
    yield from found


def _is_bare(call: Call, probe: Probe) -> bool:
    """Whether at most one convolution or linear layer has run by the end of this call: still the stem."""
    done = (layer for layer in probe.calls if layer.finished <= call.finished)
    return sum(_WEIGHTED.fullmatch(layer.kind) is not None for layer in done) <= 1


def _with_layout(call: Call) -> Landmark:
    layout = _map_layout(call)
    assert layout is not None
    return call, layout


def _map_layout(call: Call) -> Layout | None:
    """The layout of an output that is a map with more than one place; square inputs make square maps."""
    if call.output is None or call.output.ndim != 4:
        return None
    _, a, b, c = call.output.shape
    layout = Layout("nhwc") if a == b != c else Layout()
    return layout if layout.apply(call.output).shape[2:].numel() > 1 else None


def _by_spatial_size(probe: Probe) -> list[Landmark]:
    """The last output at each spatial size, leaving out what runs inside a block that ends smaller."""
    groups: dict[int, list[Landmark]] = {}
    smallest = None
    for call in sorted(probe.calls, key=lambda call: call.finished):
        layout = _map_layout(call)
        if layout is None or call.output is None:
            continue
        places = layout.apply(call.output).shape[2:].numel()
        if smallest is None or places <= smallest:
            smallest = places
            groups.setdefault(places, []).append((call, layout))
    ends = [_last_of(group, probe) for group in groups.values()]
    return ends[1:] if ends and _is_bare(ends[0][0], probe) else ends


def _last_of(group: list[Landmark], probe: Probe) -> Landmark:
    began = group[0][0].finished
    inner = {id(call) for call, _ in group if _inside_smaller_block(call, began, probe)}
    return [landmark for landmark in group if id(landmark[0]) not in inner][-1]


def _inside_smaller_block(call: Call, began: int, probe: Probe) -> bool:
    """Whether a module that began after the group did contains this call and ends with another spatial size."""
    assert call.output is not None
    for outer in probe.calls:
        contains = began < outer.started < call.started and call.finished < outer.finished
        if contains and outer.output is not None and outer.output.shape[-2:] != call.output.shape[-2:]:
            return True
    return False


def _token_blocks(probe: Probe) -> list[Landmark]:
    """In a network of tokens [B, N, C], the blocks of the most frequent kind that keep the shape."""
    blocks: dict[tuple[Any, ...], list[Landmark]] = {}
    for call in probe.calls:
        if call.output is None or call.output.ndim != 3 or "." not in call.path:
            continue
        layout = Layout.of_map(call.output)
        if layout is not None and layout.grid[0] > 1:
            parent = call.path.rsplit(".", 1)[0]
            blocks.setdefault((parent, call.kind, call.output.shape), []).append((call, layout))
    return max((group for group in blocks.values() if len(group) > 1), key=len, default=[])
