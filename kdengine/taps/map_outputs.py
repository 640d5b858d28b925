"""Finds a network's stem, classifier and activations in a probe."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from torch import nn

from kdengine.taps.maps import MapOutput, layout_of
from kdengine.taps.probe import Call, Probe

__all__ = ["activation_behind", "find_classifier", "find_stem"]

_AUXILIARY = re.compile(r"(^|[._])aux")


def find_stem(probe: Probe, passed_over: MapOutput | None, stages: list[MapOutput]) -> MapOutput | None:
    """The input map of the first stage, or else the last map computed before it.

    If the stages are not modules but layers in a flat list, the stem is the map that ``find_stages`` skipped, or the first
    activation. The skipped map is also the stem if most of the network lies between the two, as in a network that ends all
    its stages together. If the first stage receives the images themselves, the stem is the first activation inside it.
    """
    if not stages:
        return None
    first = _first_of_its_kind(stages[0].call, probe)
    maps = [call for call in probe.calls if layout_of(call, probe) is not None]
    before = [call for call in maps if call.finished < first.started]
    if stages[0].layout.order:  # calls that only reorder the patches have no layers
        before = [call for call in before if call.layer or probe.layers_within(call)]
    if not any(first.contains(inner) for inner in probe.calls):
        if passed_over is not None:
            return passed_over
        before = [call for call in before if call.activation][:1] or before
    elif not before:
        before = [call for call in maps if call.activation and first.contains(call)][:1]
    else:
        before = [call for call in before if call.output is first.input] or before
    if passed_over is not None and before and _most_layers_between(passed_over.call, before[-1], probe):
        return passed_over
    layout = layout_of(before[-1], probe) if before else None
    return None if layout is None else MapOutput(before[-1], layout)


def _first_of_its_kind(call: Call, probe: Probe) -> Call:
    """The first block of the same kind and size in the list that holds this block: ``blocks.0.0`` for ``blocks.0.2``."""
    parent, _, number = call.path.rpartition(".")
    if not number.isdigit() or call.kind == nn.Sequential.__name__:  # a Sequential's kind says nothing about its content
        return call
    listed = (probe.find(f"{parent}.{earlier}".lstrip(".")) for earlier in range(int(number)))
    equal = (other for other in listed if other is not None and other.kind == call.kind)
    return next((other for other in equal if [part.shape for part in other.parts] == [part.shape for part in call.parts]), call)


def _most_layers_between(earlier: Call, later: Call, probe: Probe) -> bool:
    layers = [call for call in probe.calls if call.layer]
    between = [call for call in layers if earlier.finished < call.started and call.finished <= later.finished]
    return 2 * len(between) > len(layers)


def find_classifier(model: nn.Module, probe: Probe) -> Call | None:
    """The call of the layer that computes the logits: inside timm's ``get_classifier()``, or the network's last layer.

    None for a network without a head, whose output is its embedding or its last map.
    """
    if probe.logits.ndim == 4:
        return _last_of_pixels(model, probe)
    getter: Callable[[], Any] | None = getattr(model, "get_classifier", None)
    head = None
    with suppress(AttributeError):  # some of timm's look for a layer in the identity of a network without a classifier
        head = getter() if callable(getter) else None
    head = head[0] if isinstance(head, (tuple, list)) else head  # two heads, the class token's first
    if isinstance(head, nn.Identity):
        return None
    return _call_of(head, model, probe) or _last_layer(probe)


def _call_of(head: Any, model: nn.Module, probe: Probe) -> Call | None:
    """The last call of the classifier that timm names, or of a layer inside it if the classifier also pools."""
    if not isinstance(head, nn.Module):
        return None
    inside = set(head.modules())
    paths = {path: module for path, module in model.named_modules() if module in inside}
    calls = [call for call in probe.calls if call.path in paths and _makes_logits(call, probe)]
    whole = [call for call in calls if paths[call.path] is head and call.input is not None and call.input.ndim == 2]
    return next(reversed(whole or [call for call in calls if call.layer]), None)


def _last_layer(probe: Probe) -> Call | None:
    """The last call with weights, if it is a layer as wide as the logits; a headless network has none."""
    weighted = [call for call in probe.calls if call.weighted and call.path]
    return weighted[-1] if weighted and weighted[-1].layer and _makes_logits(weighted[-1], probe) else None


def _makes_logits(call: Call, probe: Probe) -> bool:
    if call.output is None:
        return False
    width = call.output.shape[1] if call.output.ndim == 4 else call.output.shape[-1]
    return width == probe.num_outputs


def _last_of_pixels(model: nn.Module, probe: Probe) -> Call | None:
    """The last convolution that makes the logits of pixels: a 1x1, or one at the size of the image.

    Others end an encoder, whose output is a map rather than logits. Layers of auxiliary heads run later but are passed over.
    """
    weighted = [call for call in probe.calls if call.weighted and call.path and not _AUXILIARY.search(call.path)]
    last = weighted[-1] if weighted else None
    if last is None or last.output is None or last.output.ndim != 4 or not _makes_logits(last, probe):
        return None
    layer, whole = model.get_submodule(last.path), probe.find("")
    image = None if whole is None or whole.input is None else whole.input.shape[2:]
    pointwise = isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1)
    return last if pointwise or (last.layer and last.output.shape[2:] == image) else None


def activation_behind(probe: Probe, stage: Call) -> Call | None:
    """The activation whose unmodified output is the stage's output; None if the stage does not end in an activation.

    Identity of the tensor is not enough: after ``x = relu_(x); x += shortcut`` a block returns the ReLU's tensor, modified.
    """
    for call in reversed(probe.calls):
        if call.activation and call.output is stage.output and call.output_version == stage.output_version:
            return call
    return None
