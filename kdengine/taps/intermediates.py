"""The maps that timm's ``forward_intermediates`` returns, for networks whose ``feature_info`` does not suffice.

It may take a map out of a tuple, drop class tokens, or restore image order from window order. This module traces each map
back, through operations that only move values, to the call that computed it; replaying those operations on numbered
positions then yields the layout that turns the call's tensor into the map.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from kdengine.taps.maps import MapOutput
from kdengine.taps.probe import Call, Probe, Watch, twin_and_images
from kdengine.taps.tensors import Layout, tensors_in
from kdengine.taps.twin import QuickBatchNorm

__all__ = ["from_intermediates"]

_VIEWS = ("view", "_unsafe_view", "_reshape_alias", "permute", "transpose", "slice", "select", "squeeze", "unsqueeze")
_MOVES = frozenset((*_VIEWS, "alias", "detach", "clone", "split", "split_with_sizes", "unbind"))


def from_intermediates(model: nn.Module, probe: Probe, only_first: bool = False) -> list[MapOutput]:
    """The maps that the network's ``forward_intermediates`` returns; empty without that method or if one cannot be traced.

    Args:
        model: the network; a copy of it runs on the meta device.
        probe: the probe of the same network: only calls that its forward makes too can be tapped.
        only_first: request only the first map, which takes a fraction of the time.
    """
    whole = probe.find("")
    if not callable(getattr(model, "forward_intermediates", None)) or whole is None or whole.input is None:
        return []
    arguments = {"indices": [0], "stop_early": True} if only_first else {}
    try:
        traced = _traced(model, probe, whole.input.shape[1:], arguments)
    except Exception:  # a network may reject the meta device or these arguments with any exception
        return []
    maps = [map_output for map_output in traced if map_output is not None]
    # the first is often the stem, which need not be a module of the network
    return maps if None not in traced[1:] else []


def _traced(model: nn.Module, probe: Probe, input_size: Sequence[int], arguments: dict[str, Any]) -> list[MapOutput | None]:
    twin, images = twin_and_images("meta", model, input_size)
    intermediates: Callable[..., Any] = getattr(twin, "forward_intermediates")  # noqa: B009 (nn.Module does not declare it)
    watch, moves = Watch(), _Moves()
    with torch.inference_mode(False), torch.no_grad(), QuickBatchNorm(), watch.over(twin), moves:
        maps = intermediates(images, intermediates_only=True, **arguments)
    results = _results(watch, probe)
    return [_map_output(tensor, results, moves) for tensor in tensors_in(maps)]


def _results(watch: Watch, probe: Probe) -> dict[int, tuple[Call, int | None]]:
    """The id of each tensor that a call returned and nothing modified since -> that call in the probe, and the item.

    If several calls return the same tensor, the first wins, unless another contains it: ``layer1``, not ``layer1.2``.
    """
    results: dict[int, tuple[Call, int | None]] = {}
    holders: dict[int, Call] = {}
    for call, parts in watch.parts:
        same = probe.find(call.path, call.number)
        if same is None or [part.shape for part, _ in parts] != [part.shape for part in same.parts]:
            continue
        for item, (part, version) in enumerate(parts):
            holder = holders.get(id(part))
            if part._version == version and (holder is None or call.contains(holder)):
                holders[id(part)] = call
                results[id(part)] = (same, None if part is call.output else item)
    return results


def _map_output(tensor: Tensor, results: dict[int, tuple[Call, int | None]], moves: _Moves) -> MapOutput | None:
    """The call whose output was only rearranged to give the tensor; None if the tensor was computed from it."""
    steps: list[_Move] = []
    while id(tensor) not in results:
        if id(tensor) not in moves.behind:
            return None
        steps.insert(0, moves.behind[id(tensor)])
        tensor = steps[0].source
    call, item = results[id(tensor)]
    positions = torch.empty_like(tensor, device="cpu", dtype=torch.int64)
    positions.copy_(torch.arange(tensor.numel()).reshape(tensor.shape))
    moved = positions
    for step in steps:
        moved = step(moved)
    layout = Layout.of_places(positions, moved)
    return None if layout is None else MapOutput(call, layout, item)


@dataclass
class _Move:
    """One operation that rearranged the values of a tensor, and the index of the result in question."""

    source: Tensor
    function: Callable[..., Any]
    args: Sequence[Any]
    kwargs: dict[str, Any]
    item: int | None

    def __call__(self, tensor: Tensor) -> Tensor:
        """The same operation on another tensor of the same shape."""
        result = self.function(tensor, *self.args, **self.kwargs)
        moved: Tensor = result if self.item is None else result[self.item]
        return moved


class _Moves(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, records operations that only rearrange values: the id of each result -> the move that made it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.behind: dict[int, _Move] = {}
        self.alive: list[Any] = []  # keeps ids unique

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func.overloadpacket.__name__ in _MOVES:
            several = not isinstance(result, Tensor)
            for item, tensor in enumerate(tensors_in(result)):
                self.behind[id(tensor)] = _Move(args[0], func, args[1:], kwargs, item if several else None)
                self.alive.append(tensor)
        return result
