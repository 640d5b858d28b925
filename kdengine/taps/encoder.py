"""Finds stem and stages; in a network that labels pixels, in its encoder, whose maps shrink before the head enlarges them."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from kdengine.taps.map_outputs import find_stem
from kdengine.taps.maps import MapOutput, layout_of
from kdengine.taps.probe import Call, Probe
from kdengine.taps.stages import find_stages

__all__ = ["find_maps"]


def find_maps(model: nn.Module, probe: Probe, classifier: Call | None) -> tuple[MapOutput | None, list[MapOutput]]:
    """The end of the stem, if there is one, and the ends of the stages, first to last."""
    path = "" if classifier is None or probe.logits.ndim != 4 else _encoder(model, probe, classifier)
    if not path:
        passed_over, stages = find_stages(model, probe, classifier)
        return find_stem(probe, passed_over, stages), stages
    inner = _within(path, probe)
    passed_over, stages = find_stages(model.get_submodule(path), inner, None)
    stem = find_stem(inner, passed_over, stages)
    return None if stem is None else _outside(stem, path, probe), [_outside(stage, path, probe) for stage in stages]


def _encoder(model: nn.Module, probe: Probe, classifier: Call) -> str:
    """Path of the encoder: the largest module that runs first, without the classifier; or empty.

    It must have most layers, as where a head pools further, or the smallest maps; else it is but a stage of a flat network.
    A container of a single module, such as a wrapper that collects maps, stands for that module.
    """
    first = min((call for call in probe.calls if call.layer and call.path), key=lambda call: call.started)
    around = [call for call in probe.calls if call.path and call.contains(first) and not call.contains(classifier)]
    if not around:
        return ""
    widest = max(around, key=lambda call: call.finished - call.started)
    layers = [call for call in probe.calls if call.layer]
    if 2 * probe.layers_within(widest) <= len(layers) and not _shrinks_most(widest, layers, probe):
        return ""
    path = widest.path
    children = list(model.get_submodule(path).named_children())
    while len(children) == 1 and not isinstance(children[0][1], (nn.Sequential, nn.ModuleList)):
        path = f"{path}.{children[0][0]}"
        children = list(children[0][1].named_children())
    return path


def _shrinks_most(module: Call, layers: list[Call], probe: Probe) -> bool:
    """Whether no layer outside a module has smaller maps than the smallest inside, but for single pixels."""
    inside = _areas([call for call in probe.calls if module.contains(call)], probe)
    outside = _areas([call for call in layers if not module.contains(call)], probe)
    return bool(inside) and (not outside or min(inside) <= min(outside))


def _areas(calls: list[Call], probe: Probe) -> set[int]:
    """Places of the maps that calls return, without maps of a single place."""
    found = ((call.output, layout_of(call, probe)) for call in calls)
    maps = (layout.apply(output) for output, layout in found if output is not None and layout is not None)
    return {each[0, 0].numel() for each in maps} - {1}


def _within(path: str, probe: Probe) -> Probe:
    """The part of the pass inside a module, as if that were the network: paths are relative to it.

    If its parent calls its methods instead of the module itself, the parent's call stands for the whole. What the whole returns
    is no map of its own, but one of those inside.
    """
    whole, above = probe.find(path), path
    while whole is None:
        above = above.rpartition(".")[0]
        whole = probe.find(above)
    inside = [call for call in probe.calls if call.path.startswith(f"{path}.") and whole.contains(call)]
    calls = [replace(call, path=call.path.removeprefix(f"{path}.")) for call in inside]
    output = probe.logits if whole.output is None else whole.output
    root = replace(whole, path="", number=0, output=None, parts=[], parts_overwritten=[])
    return Probe([*calls, root], output, probe.device, probe.aspect, probe.attends)


def _outside(found: MapOutput, path: str, probe: Probe) -> MapOutput:
    """The same map, with the call as the whole network's probe lists it."""
    inside = found.call.path
    call = probe.find(f"{path}.{inside}" if inside else path, found.call.number)
    assert call is not None
    return found._replace(call=call)
