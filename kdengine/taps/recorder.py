"""Recording: forward hooks that exist only inside a ``with``, and the trace that they leave."""

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
    """Ends a forward once everything asked for was captured; never leaves this module.

    No ``Exception``, so that a network that catches those does not swallow it.
    """


class Recorder:
    """Runs a network and records taps: ``with Recorder(model, taps) as recorder: trace = recorder(images)``.

    Hooks exist only inside the ``with``, act only during ``recorder(...)``, and are gone afterwards whatever happens.

    Args:
        model: the network, bare or wrapped.
        taps: what to record, in the grammar of taps, or points that an anatomy already resolved.
        anatomy: what a probe learned of the network; made from the first input when left out.
        stop: end the forward when the last tap has fired; the logits are then recorded only if they are a tap.
    """

    def __init__(
        self,
        model: nn.Module,
        taps: Sequence[str] | Mapping[str, TapPoint],
        anatomy: Anatomy | None = None,
        stop: bool = False,
    ) -> None:
        self.model = model
        self.anatomy = anatomy
        self.stop = stop
        self._taps = taps
        self._sites: dict[str, TapPoint] = {}
        self._aliases: dict[str, str] = {}
        self._stack: ExitStack | None = None
        self._wanted: dict[_Event, dict[int | None, TapPoint]] = {}
        self._captured: dict[tuple[_Event, int | None], tuple[Tensor, int]] = {}
        self._calls: dict[tuple[str, str], int] = {}
        self._inside: list[str] = []
        self._armed = False

    def __enter__(self) -> Recorder:
        if self._stack is not None:
            raise TapError("This recorder is in use already. Make a second Recorder for the inner 'with'.")
        with ExitStack() as stack:
            if self.anatomy is not None or isinstance(self._taps, Mapping):
                self._install(stack, None)
            self._stack = stack.pop_all()  # keeps the hooks, which an exception above would have removed
        return self

    def __exit__(self, *_: object) -> None:
        if self._stack is not None:
            self._stack.close()
        self._stack = None
        self._clear()

    def __call__(self, *args: Any, **kwargs: Any) -> Trace:
        """Run the network on its inputs.

        Raises:
            TapError: a tap names nothing, did not fire, or was overwritten unforeseen; or not inside ``with``.
        """
        if self._stack is None:
            raise TapError("A recorder records only inside 'with Recorder(...) as recorder:'.")
        if not self._sites and self._taps:
            self._install(self._stack, first_tensor((args, kwargs)))
        output = self._run(args, kwargs)
        try:
            return self._trace(output, first_tensor((args, kwargs)))
        finally:
            self._clear()

    def _install(self, stack: ExitStack, images: Tensor | None) -> None:
        """Resolve the taps and hook the modules that they are in."""
        self._sites = self._resolve(images)
        self._wanted = {}
        for point in self._sites.values():
            if point.path:
                self._wanted.setdefault(_event(point), {})[point.item] = point
        modules = dict(unwrap(self.model).named_modules())
        for path, side in dict.fromkeys((path, side) for path, side, _ in self._wanted if not is_functional(path)):
            stack.callback(self._hook(_module(modules, path), path, side).remove)
        if any(is_functional(path) for path, *_ in self._wanted):
            self._follow(stack, modules)

    def _resolve(self, images: Tensor | None) -> dict[str, TapPoint]:
        if isinstance(self._taps, Mapping):
            return dict(self._taps)
        if self.anatomy is None:
            if images is None:
                raise TapError("A recorder without an anatomy learns the network from its first input, and got no tensor.")
            self.anatomy = Anatomy.of(self.model, images.shape[1:])
        found = {text: self.anatomy.resolve(text) for text in self._taps}
        self._aliases = {text: next(iter(points)) for text, points in found.items() if len(points) == 1}
        return {name: point for points in found.values() for name, point in points.items()}

    def _hook(self, module: nn.Module, path: str, side: str) -> RemovableHandle:
        def before(_: nn.Module, args: Any, kwargs: Any) -> None:
            self._saw(path, "in", (args, kwargs))

        def after(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            self._saw(path, "out", output)

        if side == "in":
            return module.register_forward_pre_hook(before, with_kwargs=True)
        return module.register_forward_hook(after, with_kwargs=True)

    def _follow(self, stack: ExitStack, modules: Mapping[str, nn.Module]) -> None:
        """Keep track of which module is running, to know whose function an activation is."""
        for path, module in modules.items():
            stack.callback(module.register_forward_pre_hook(lambda _, args, path=path: self._inside.append(path)).remove)
            stack.callback(module.register_forward_hook(lambda _, args, output, path=path: self._leave(path)).remove)

    def _leave(self, path: str) -> None:
        while self._inside and self._inside.pop() != path:
            pass  # a module that raised, where the network caught the exception

    def _saw(self, path: str, side: str, value: Any) -> None:
        """A module or function ran: keep what is wanted of this call of it."""
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
        if self.stop and self._has_all() and all(point.path for point in self._sites.values()):
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
        tensors = {name: self._read(name, point) for name, point in self._sites.items() if point.path}
        if logits is not None:
            tensors.update({n: point.layout.apply(logits) for n, point in self._sites.items() if not point.path})
        return Trace(tensors, logits, aliases=self._aliases, inputs=images)

    def _read(self, name: str, point: TapPoint) -> Tensor:
        captured = self._captured.get((_event(point), point.item))
        if captured is None:
            raise TapError(
                f"The tap '{name}' ({point}) did not fire in this forward. Was the network compiled before it was tapped, "
                "gradient checkpointing switched on, or a branch not taken?"
            )
        tensor, version = captured
        if times_written(tensor) != version:
            raise TapError(f"The tap '{name}' ({point}) was overwritten in place after it was captured; tap its input instead.")
        return point.layout.apply(_float(tensor))

    def _clear(self) -> None:
        self._captured.clear()
        self._calls.clear()
        self._inside.clear()


def _event(point: TapPoint) -> _Event:
    return point.path, point.side, point.call


def _module(modules: Mapping[str, nn.Module], path: str) -> nn.Module:
    if path not in modules:
        raise TapError(f"The taps were resolved on another network: this one has no module '{path}'. Probe it anew.")
    return modules[path]


def _float(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() and tensor.dtype != torch.float32 else tensor
