"""The recorder: forward hooks that exist only inside a ``with`` block and fill a trace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from kdengine.errors import TapError
from kdengine.taps.anatomy import Anatomy, TapPoint, unwrap
from kdengine.taps.functional import FunctionalActivations, is_functional
from kdengine.taps.tensors import first_tensor, nth_tensor, times_written
from kdengine.taps.trace import Trace

__all__ = ["Recorder"]


_Event = tuple[str, str, int]
"""Path, side and call."""


class _Stop(BaseException):
    """Ends a forward once all taps were captured; never leaves this module.

    Not an ``Exception``, so that a network that catches those does not swallow it.
    """


class Recorder:
    """Runs a network and records taps: ``with Recorder(model, taps) as recorder: trace = recorder(images)``.

    Hooks exist only inside the ``with`` block, act only during ``recorder(...)``, and are removed even if it raises.

    Args:
        model: the network, bare or wrapped.
        taps: one tap or several, as text, or points that an anatomy has already resolved.
        anatomy: the network's anatomy; by default it is probed on the first call.
        stop: end the forward once the last tap has fired; the logits are then recorded only if they are a tap.
    """

    def __init__(
        self,
        model: nn.Module,
        taps: str | Sequence[str] | Mapping[str, TapPoint],
        anatomy: Anatomy | None = None,
        stop: bool = False,
    ) -> None:
        self.model = model
        self.anatomy = anatomy
        self.stop = stop
        self._taps = (taps,) if isinstance(taps, str) else taps
        self._points: dict[str, TapPoint] = {}
        self._aliases: dict[str, str] = {}
        self._stack: ExitStack | None = None
        self._wanted: dict[_Event, dict[int | None, TapPoint]] = {}
        self._captured: dict[tuple[_Event, int | None], tuple[Tensor, int]] = {}
        self._calls: dict[tuple[str, str], int] = {}
        self._inside: list[str] = []
        self._armed = False

    def __enter__(self) -> Recorder:
        if self._stack is not None:
            raise TapError("This recorder is already in use. Create a second Recorder for the inner 'with'.")
        with ExitStack() as stack:
            if self.anatomy is not None or isinstance(self._taps, Mapping):
                self._install(stack, None)
            self._stack = stack.pop_all()  # keeps the hooks, which an exception above removes
        return self

    def __exit__(self, *_: object) -> None:
        if self._stack is not None:
            self._stack.close()
        self._stack = None
        self._clear()

    def __call__(self, *args: Any, **kwargs: Any) -> Trace:
        """Run the network on its inputs.

        Raises:
            TapError: called outside ``with``; or a tap names nothing, did not fire, or was overwritten unexpectedly.
        """
        if self._stack is None:
            raise TapError("This recorder is not active. Call it inside 'with Recorder(...) as recorder:'.")
        if not self._points and self._taps:
            self._install(self._stack, first_tensor((args, kwargs)))
        output = self._run(args, kwargs)
        try:
            return self._trace(output, first_tensor((args, kwargs)))
        finally:
            self._clear()

    def _install(self, stack: ExitStack, images: Tensor | None) -> None:
        """Resolve the taps and hook their modules."""
        self._points = self._resolve(images)
        self._wanted = {}
        for point in self._points.values():
            if point.path:
                self._wanted.setdefault(_event(point), {})[point.item] = point
        network = unwrap(self.model)
        for path, side in dict.fromkeys((path, side) for path, side, _ in self._wanted if not is_functional(path)):
            stack.callback(self._hook(_module(network, path), path, side).remove)
        if any(is_functional(path) for path, *_ in self._wanted):
            self._follow(stack, dict(network.named_modules()))

    def _resolve(self, images: Tensor | None) -> dict[str, TapPoint]:
        if isinstance(self._taps, Mapping):
            return dict(self._taps)
        if self.anatomy is None:
            if images is None:
                raise TapError(
                    "A recorder without an anatomy probes the network at its first call, which got no tensor. Call it with a "
                    "batch of images, or pass anatomy=Anatomy.of(model, (C, H, W))."
                )
            self.anatomy = Anatomy.of(self.model, images.shape[1:])
        resolved = {text: self.anatomy.resolve(text) for text in self._taps}
        self._aliases = {text: next(iter(points)) for text, points in resolved.items() if len(points) == 1}
        return {name: point for points in resolved.values() for name, point in points.items()}

    def _hook(self, module: nn.Module, path: str, side: str) -> RemovableHandle:
        def before(_: nn.Module, args: Any, kwargs: Any) -> None:
            self._saw(path, "in", (args, kwargs))

        def after(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            self._saw(path, "out", output)

        if side == "in":
            return module.register_forward_pre_hook(before, with_kwargs=True)
        return module.register_forward_hook(after, with_kwargs=True)

    def _follow(self, stack: ExitStack, modules: Mapping[str, nn.Module]) -> None:
        """Track which module is running, to attribute functional activations to it."""
        for path, module in modules.items():
            stack.callback(module.register_forward_pre_hook(lambda _, args, path=path: self._inside.append(path)).remove)
            stack.callback(module.register_forward_hook(lambda _, args, output, path=path: self._leave(path)).remove)

    def _leave(self, path: str) -> None:
        while self._inside and self._inside.pop() != path:
            pass  # a module that raised an exception which the network caught

    def _saw(self, path: str, side: str, value: Any) -> None:
        """A module or function ran: capture the tensors that taps read from this call."""
        if not self._armed:
            return
        number = self._calls.get((path, side), 0)
        self._calls[path, side] = number + 1
        event = (path, side, number)
        if event not in self._wanted:
            return
        for item, point in self._wanted[event].items():
            tensor = nth_tensor(value, item)
            if tensor is not None:
                kept = tensor.clone() if point.overwritten else tensor
                self._captured[event, item] = kept, times_written(kept)
        if self.stop and self._has_all() and all(point.path for point in self._points.values()):
            raise _Stop

    def _has_all(self) -> bool:
        return len(self._captured) == sum(len(items) for items in self._wanted.values())

    def _run(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        self._clear()
        self._armed = True
        try:
            with self._functions():
                return self.model(*args, **kwargs)
        except _Stop:
            return None
        except BaseException:
            self._captured.clear()
            raise
        finally:
            self._armed = False

    def _functions(self) -> AbstractContextManager[Any]:
        if not any(is_functional(path) for path, *_ in self._wanted):
            return nullcontext()

        def before(name: str, tensor: Tensor) -> None:
            self._saw(self._function(name), "in", tensor)

        def after(name: str, tensor: Tensor) -> None:
            self._saw(self._function(name), "out", tensor)

        return FunctionalActivations(before, after)

    def _function(self, name: str) -> str:
        return f"{self._inside[-1] if self._inside else '?'}.{name}".lstrip(".")

    def _trace(self, output: Any, images: Tensor | None) -> Trace:
        logits = first_tensor(output)
        logits = None if logits is None else _float(logits)
        tensors = {name: self._read(name, point) for name, point in self._points.items() if point.path}
        if logits is not None:
            tensors.update({n: point.layout.apply(logits) for n, point in self._points.items() if not point.path})
        return Trace(tensors, logits, aliases=self._aliases, inputs=images)

    def _read(self, name: str, point: TapPoint) -> Tensor:
        captured = self._captured.get((_event(point), point.item))
        if captured is None:
            raise TapError(
                f"The tap '{name}' ({point}) did not fire in this forward: the network was compiled before it was tapped, uses "
                "gradient checkpointing, or did not take this branch. Pass it uncompiled and without checkpointing, or choose "
                "a tap that runs in every forward."
            )
        tensor, version = captured
        if times_written(tensor) != version:
            raise TapError(f"The tap '{name}' ({point}) was overwritten in place after it was captured. Tap its input instead.")
        return point.layout.apply(_float(tensor))

    def _clear(self) -> None:
        self._captured.clear()
        self._calls.clear()
        self._inside.clear()


def _event(point: TapPoint) -> _Event:
    return point.path, point.side, point.call


def _module(network: nn.Module, path: str) -> nn.Module:
    try:
        return network.get_submodule(path)
    except AttributeError:
        raise TapError(
            f"The taps were resolved on another network: this one has no module '{path}'. Resolve them on this network's "
            "own anatomy."
        ) from None


def _float(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() and tensor.dtype != torch.float32 else tensor
