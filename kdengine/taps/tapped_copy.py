"""A copy of a network that returns its taps beside its output, so that it can be compiled as a whole.

The hooks of a :class:`~kdengine.taps.recorder.Recorder` come and go with every forward, and a compiler would start anew each
time. The modules of this copy are of subclasses that hand over what passes through them, for good. Weights and buffers are the
very tensors of the network, which stays as it is.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from kdengine.errors import TapError
from kdengine.taps.anatomy import TapPoint, unwrap
from kdengine.taps.functional import FunctionalActivations, is_functional
from kdengine.taps.tensors import first_tensor, nth_tensor
from kdengine.taps.trace import Trace

__all__ = ["TappedCopy"]


class _Stop(BaseException):
    """Ends a forward once all taps were captured; never leaves this module."""


class _Catch:
    """What the modules of one copy hand their tensors to; made of plain values, which a compiler can follow.

    Args:
        points: name -> point.
        stop: end the forward once all of them were seen.

    Attributes:
        seen: place of a point among all -> its tensor, float32; filled anew by every forward.
    """

    def __init__(self, points: Mapping[str, TapPoint], stop: bool) -> None:
        inner = [(place, point) for place, point in enumerate(points.values()) if point.path]
        self.wanted: dict[tuple[str, str, int], tuple[tuple[int, int | None, bool], ...]] = {}
        for place, point in inner:
            event = point.path, point.side, point.call
            self.wanted[event] = (*self.wanted.get(event, ()), (place, point.item, point.overwritten))
        self.count = len(inner)
        self.stop = stop and len(inner) == len(points)
        self.functions = any(is_functional(path) for path, *_ in self.wanted)
        self.seen: dict[int, Tensor] = {}
        self.calls: dict[tuple[str, str], int] = {}
        self.inside: list[str] = []

    def clear(self) -> None:
        """Forget what was seen."""
        self.seen.clear()
        self.calls.clear()
        self.inside.clear()

    def enter(self, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A module is called."""
        self.inside.append(path)
        self.saw(path, "in", args[0] if args and isinstance(args[0], Tensor) else (args, kwargs))

    def leave(self, path: str, output: Any) -> None:
        """A module returns."""
        while self.inside and self.inside.pop() != path:
            pass  # a module that raised an exception which the network caught
        self.saw(path, "out", output)

    def saw(self, path: str, side: str, value: Any) -> None:
        """Keep the tensors that taps read from this call."""
        number = self.calls.get((path, side), 0)
        self.calls[path, side] = number + 1
        for place, item, overwritten in self.wanted.get((path, side, number), ()):
            tensor = value if item is None and isinstance(value, Tensor) else nth_tensor(value, item)
            if tensor is not None:
                self.seen[place] = tensor.clone() if overwritten else tensor
        if self.stop and len(self.seen) == self.count:
            raise _Stop

    def following(self) -> AbstractContextManager[Any]:
        """A context in which activations called as functions are seen, if a tap reads one."""
        if not self.functions:
            return nullcontext()

        def before(name: str, tensor: Tensor) -> None:
            self.saw(self.function(name), "in", tensor)

        def after(name: str, tensor: Tensor) -> None:
            self.saw(self.function(name), "out", tensor)

        return FunctionalActivations(before, after)

    def function(self, name: str) -> str:
        """The path of a function that the innermost module calls."""
        return f"{self.inside[-1]}.{name}".lstrip(".") if self.inside else name


class TappedCopy(nn.Module):
    """A network as a function from images to its output and its taps.

    Not to be trained, saved or moved by itself: the network owns the weights. Attributes other than these are those that the
    network had when it was copied; whether modules are in training is kept up by :meth:`follow`.

    Args:
        network: bare or with preprocessing in front.
        points: name -> point to record.
        stop: end the forward once the last tap has been seen.

    Raises:
        TapError: a module cannot be watched, or there is none of a tap's path.
    """

    def __init__(self, network: nn.Module, points: Mapping[str, TapPoint], stop: bool = False) -> None:
        super().__init__()
        self.network = _with_the_same_tensors(network)
        self.catch = _Catch(points, stop)
        self._points = dict(points)
        self._pairs = list(zip(network.modules(), self.network.modules(), strict=True))
        modules = dict(unwrap(self.network).named_modules())
        watched = modules if self.catch.functions else dict.fromkeys(path for path, *_ in self.catch.wanted)
        for path in watched:
            if path not in modules:
                raise TapError(f"The taps were resolved on another network: this one has no module '{path}'.")
            _watch(modules[path], path, self.catch)
        self.follow()

    def follow(self) -> None:
        """Put every module in the mode, training or evaluation, of the network's own."""
        for own, copied in self._pairs:
            copied.training = own.training

    def forward(self, images: Tensor) -> tuple[Tensor | None, tuple[Tensor, ...]]:
        """Images [B, C, H, W] -> the first tensor of the output, None if the forward was ended, and that of each inner tap."""
        catch = self.catch
        catch.clear()
        logits = None
        try:
            with catch.following():
                logits = first_tensor(self.network(images))
        except _Stop:
            pass
        tensors = tuple(_float(catch.seen[place]) for place in range(len(self._points)) if place in catch.seen)
        catch.clear()
        return None if logits is None else _float(logits), tensors

    def trace(self, images: Tensor, logits: Tensor | None, tensors: tuple[Tensor, ...]) -> Trace:
        """The trace of what a forward, or a compiled one, has returned.

        Raises:
            TapError: a tap was not seen.
        """
        inner = [(name, point.layout) for name, point in self._points.items() if point.path]
        if len(tensors) != len(inner):
            raise TapError("A tap was not seen in this forward: the network did not take its branch.")
        found = {name: layout.apply(tensor) for (name, layout), tensor in zip(inner, tensors, strict=True)}
        if logits is not None:
            found |= {name: point.layout.apply(logits) for name, point in self._points.items() if not point.path}
        return Trace(found, logits, inputs=images)


def _with_the_same_tensors(network: nn.Module) -> nn.Module:
    """A copy of the modules of a network, in which parameters and buffers are those of the network, even if it gets others."""
    memo: dict[int, Any] = {id(tensor): tensor for tensor in [*network.parameters(), *network.buffers()]}
    twin = copy.deepcopy(network, memo)
    for own, copied in zip(network.modules(), twin.modules(), strict=True):
        vars(copied).update({name: vars(own)[name] for name in ("_parameters", "_buffers")})
    return twin


def _watch(module: nn.Module, path: str, catch: _Catch) -> None:
    """Make a module of a copy hand over what passes through it."""
    if module._forward_hooks:
        raise TapError(f"'{path}' has forward hooks of its own, which may change its output.")
    kind: Any = type(module)
    try:
        module.__class__ = _watched(kind)
    except TypeError as error:
        raise TapError(f"'{path}' cannot be watched: {error}.") from error
    vars(module).update(_kdengine_catch=catch, _kdengine_path=path)


@cache
def _watched(kind: Any) -> type[nn.Module]:
    """The subclass whose forward hands over what passes through it; one a class, so that all lanes share compiled code."""

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        catch, path = self._kdengine_catch, self._kdengine_path
        catch.enter(path, args, kwargs)
        output = kind.forward(self, *args, **kwargs)
        catch.leave(path, output)
        return output

    return type(kind.__name__, (kind,), {"forward": forward, "__module__": __name__})


def _float(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() and tensor.dtype != torch.float32 else tensor
