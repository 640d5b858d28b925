"""Recording: forward hooks that exist only inside a ``with``, and the trace that they leave."""

from __future__ import annotations

from collections.abc import Callable, Iterator, KeysView, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from kdengine.errors import TapError
from kdengine.taps.anatomy import Anatomy, Site, unwrap
from kdengine.taps.functional import FunctionalActivations, is_functional
from kdengine.taps.tensors import first_tensor

__all__ = ["Recorder", "Trace"]


class Trace:
    """What was captured in one forward: tap name -> tensor, always float32, maps as [B, C, H, W]; and the logits.

    Args:
        tensors: tap name -> tensor as it is handed over.
        logits: [B, K], or None where the forward stopped before them.
        complete: makes the logits when they are asked for after all.
    """

    def __init__(
        self, tensors: Mapping[str, Tensor], logits: Tensor | None = None, complete: Callable[[], Tensor] | None = None
    ) -> None:
        self._tensors = dict(tensors)
        self._logits = logits
        self._complete = complete

    @property
    def logits(self) -> Tensor:
        """The network's output [B, K], float32.

        Raises:
            TapError: the forward stopped before the logits.
        """
        if self._logits is None and self._complete is not None:
            self._logits = self._complete()
        if self._logits is None:
            raise TapError("This forward stopped before the logits: the training stage in progress does not need them.")
        return self._logits

    def __getitem__(self, name: str) -> Tensor:
        if name == "logits":
            return self.logits
        if name not in self._tensors:
            raise TapError(f"'{name}' was not recorded. Recorded: {', '.join(self._tensors) or 'nothing'}. Add it to taps.")
        return self._tensors[name]

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def keys(self) -> KeysView[str]:
        """Names of what was recorded."""
        return self._tensors.keys()

    def completed_by(self, complete: Callable[[], Tensor]) -> Trace:
        """The same trace, whose logits are made by ``complete`` when they are first asked for."""
        return Trace(self._tensors, self._logits, complete)

    def renamed(self, names: Mapping[str, str]) -> Trace:
        """The same tensors under other names: ``{new: old}``; the logits come along."""
        tensors = {new: self._tensors[old] for new, old in names.items() if old in self._tensors}
        return Trace(tensors, self._logits, lambda: self.logits)


class _Stop(Exception):
    """Ends a forward once everything asked for was captured; never leaves this module."""


class Recorder:
    """Runs a network and records taps: ``with Recorder(model, taps) as recorder: trace = recorder(images)``.

    Hooks exist only inside the ``with``, act only during ``recorder(...)``, and are gone afterwards whatever happens.

    Args:
        model: the network, bare or wrapped.
        taps: what to record, in the grammar of taps, or sites that an anatomy already resolved.
        anatomy: what a probe learned of the network; made from the first input when left out.
        stop: end the forward when the last tap has fired; the logits are then recorded only if they are a tap.
    """

    def __init__(
        self,
        model: nn.Module,
        taps: Sequence[str] | Mapping[str, Site],
        anatomy: Anatomy | None = None,
        stop: bool = False,
    ) -> None:
        self.model = model
        self.anatomy = anatomy
        self.stop = stop
        self._taps = taps
        self._sites: dict[str, Site] = {}
        self._stack: ExitStack | None = None
        self._wanted: dict[tuple[str, str, int], Site] = {}
        self._captured: dict[tuple[str, str, int], tuple[Tensor, int]] = {}
        self._calls: dict[tuple[str, str], int] = {}
        self._inside: list[str] = []
        self._armed = False

    def __enter__(self) -> Recorder:
        self._stack = ExitStack()
        if self.anatomy is not None or isinstance(self._taps, Mapping):
            self._install(())
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
            self._install(args)
        output = self._run(args, kwargs)
        try:
            return self._trace(output)
        finally:
            self._clear()

    def _install(self, args: Sequence[Any]) -> None:
        """Resolve the taps and hook the modules that they are in."""
        assert self._stack is not None
        self._sites = self._resolve(args)
        self._wanted = {(site.path, site.side, site.call): site for site in self._sites.values() if site.path}
        modules = dict(unwrap(self.model).named_modules())
        for path in {site.path for site in self._wanted.values() if not is_functional(site.path)}:
            self._hook(modules[path], path)
        for path in {_owner(site.path) for site in self._wanted.values() if is_functional(site.path)}:
            self._hook_scope(modules, path)

    def _resolve(self, args: Sequence[Any]) -> dict[str, Site]:
        if isinstance(self._taps, Mapping):
            return dict(self._taps)
        if self.anatomy is None:
            self.anatomy = Anatomy.of(self.model, args[0].shape[1:])
        return self.anatomy.resolve_all(self._taps)

    def _hook(self, module: nn.Module, path: str) -> None:
        def before(_: nn.Module, args: Any, kwargs: Any) -> None:
            self._saw(path, "in", first_tensor((args, kwargs)))

        def after(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            self._saw(path, "out", first_tensor(output))

        self._own(module.register_forward_pre_hook(before, with_kwargs=True))
        self._own(module.register_forward_hook(after, with_kwargs=True))

    def _hook_scope(self, modules: Mapping[str, nn.Module], path: str) -> None:
        """Follow which module is running, as far as needed to know the functions that ``path`` itself calls."""
        for name, module in [(path, modules[path]), *modules[path].named_children()]:
            full = name if module is modules[path] else f"{path}.{name}".lstrip(".")
            self._own(module.register_forward_pre_hook(lambda _, args, full=full: self._inside.append(full)))
            self._own(module.register_forward_hook(lambda _, args, output: self._leave()))

    def _own(self, handle: Any) -> None:
        assert self._stack is not None
        self._stack.callback(handle.remove)

    def _leave(self) -> None:
        if self._inside:
            self._inside.pop()

    def _saw(self, path: str, side: str, tensor: Tensor | None) -> None:
        """A module or function ran: keep the tensor if this call of it is wanted."""
        if not self._armed:
            return
        number = self._calls.get((path, side), 0)
        self._calls[path, side] = number + 1
        site = self._wanted.get((path, side, number))
        if site is None or tensor is None:
            return
        kept = tensor.clone() if site.overwritten else tensor
        self._captured[path, side, number] = kept, _version(kept)
        if self.stop and len(self._captured) == len(self._wanted) and all(site.path for site in self._sites.values()):
            raise _Stop

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
        if not any(is_functional(site.path) for site in self._wanted.values()):
            return nullcontext()

        def before(name: str, tensor: Tensor) -> None:
            self._saw(self._function(name), "in", tensor)

        def after(name: str, tensor: Tensor) -> None:
            self._saw(self._function(name), "out", tensor)

        return FunctionalActivations(before, after)

    def _function(self, name: str) -> str:
        return f"{self._inside[-1] if self._inside else '?'}.{name}".lstrip(".")

    def _trace(self, output: Any) -> Trace:
        logits = first_tensor(output)
        logits = None if logits is None else _float(logits)
        tensors = {name: self._read(name, site) for name, site in self._sites.items() if site.path}
        if logits is not None:
            tensors.update({n: site.layout.apply(logits) for n, site in self._sites.items() if not site.path})
        return Trace(tensors, logits)

    def _read(self, name: str, site: Site) -> Tensor:
        captured = self._captured.get((site.path, site.side, site.call))
        if captured is None:
            raise TapError(
                f"The tap '{name}' ({site}) did not fire in this forward. Was the network compiled before it was tapped, "
                "or a branch not taken?"
            )
        tensor, version = captured
        if _version(tensor) != version:
            raise TapError(f"The tap '{name}' ({site}) was overwritten in place after it was captured; tap its input instead.")
        return _float(site.layout.apply(tensor))

    def _clear(self) -> None:
        self._captured.clear()
        self._calls.clear()
        self._inside.clear()


def _owner(path: str) -> str:
    """The module in which a functional activation is called."""
    return path.rsplit(".", 1)[0] if "." in path else ""


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _float(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() and tensor.dtype != torch.float32 else tensor
