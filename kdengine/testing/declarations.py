"""Checks that a method is what it declares to be: what it reads, what it needs, and what it ships."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, KeysView, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from kdengine.methods.distiller import Distiller
from kdengine.methods.pair import Pair
from kdengine.methods.step import Step
from kdengine.taps import Trace
from kdengine.testing.bench import Bench
from kdengine.testing.networks import tiny_pair

__all__ = ["DeclarationChecks"]


class DeclarationChecks(ABC):
    """The part of the contract that compares a method with its declarations; :class:`DistillerContract` has them all."""

    @abstractmethod
    def bench(self, pair: tuple[nn.Module | None, nn.Module] | None = None, **settings: Any) -> Bench:
        """A bench with one lane that uses the method."""

    @property
    @abstractmethod
    def kinds(self) -> Sequence[type[Distiller]]:
        """The class of the method; of a composition, those of all its methods."""

    def test_every_tap_is_read(self) -> None:
        """What the method asks to be recorded is read, in ``build`` or in the phase: it makes forwards run that deep."""
        with _watching_build(self.kinds) as built:
            bench = self.bench()
        for lane in bench.phases():
            for key, binding in lane.phase.bindings.items():
                sides = {"student": binding.student, "teacher": binding.teacher}
                with _watching(lane.module.methods[key], sides) as idle:
                    bench.terms(bench.batch(4))
                idle -= built.get(type(lane.module.methods[key]), set())
                assert not idle, f"{key} asks for taps in the phase '{lane.phase.name}' and reads nothing of {sorted(idle)}"

    def test_what_it_needs_is_declared(self) -> None:
        """Without indices, targets, second view and all labels, the method works unless it declares that it ``needs`` them."""
        views = any("views:2" in kind.needs for kind in self.kinds)
        bench = self.bench(labels=views)
        for lane in bench.phases():
            with _stepping_through(lane.module.methods.values(), _with_what_is_declared):
                bench.terms(bench.batch(4))

    def test_it_works_without_the_teacher_that_it_does_not_require(self) -> None:
        """With ``requires_teacher = False``, the method teaches a student that has no teacher."""
        if any(kind.requires_teacher for kind in self.kinds):
            return
        bench = self.bench((None, tiny_pair()[1]))
        for _ in bench.phases():
            for name, value in bench.terms(bench.batch(4)).items():
                assert torch.isfinite(value), f"{name} = {float(value.detach())} without a teacher"
            bench.step(bench.batch(4))

    def test_what_it_ships_can_be_loaded_again(self) -> None:
        """The network that ``deploy`` returns has the task's outputs, and its saved weights make another one the same."""
        shipped = []
        for seed in (0, 1):
            bench = self.bench(tiny_pair(seed=seed))
            for _ in bench.phases():
                bench.step(bench.batch(4))
            shipped.append(bench.lane.deployment.of(copy.deepcopy(bench.lane.student)))
        one, other = shipped
        other.load_state_dict(one.state_dict())
        images = bench.batch(2).x
        with torch.no_grad():
            outputs: list[Tensor] = [network(images) for network in shipped]
        assert outputs[0].shape == (2, 10), f"the network that is shipped gives {list(outputs[0].shape)}, not [2, 10]"
        assert torch.equal(*outputs), "deploy returns a network that its saved weights do not make again: keep all in its state"


@contextmanager
def _stepping_through(methods: Iterable[Distiller], change: Callable[[Distiller, Step], Step]) -> Iterator[None]:
    """Inside, methods receive changed steps."""

    def hook(method: nn.Module, given: tuple[Any, ...]) -> tuple[Step]:
        assert isinstance(method, Distiller)
        return (change(method, given[0]),)

    handles = [method.register_forward_pre_hook(hook) for method in methods]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _with_what_is_declared(method: Distiller, step: Step) -> Step:
    """The step with nothing but what the method declares that it needs."""
    return replace(
        step,
        positions=step.positions if "index" in method.needs else None,
        targets=step.targets if {"labels", "hard_labels"} & set(method.needs) else None,
        further=step.further if "views:2" in method.needs else (),
    )


@contextmanager
def _watching(method: Distiller, sides: Mapping[str, Collection[str]]) -> Iterator[set[str]]:
    """Gives a set that at the end has the taps, of these of both sides, that the method did not read inside."""
    idle, read = set[str](), set[int]()
    shown: dict[str, int] = {}

    def watch(_: Distiller, step: Step) -> Step:
        for side, names in sides.items():
            shown.update({f"{side}: {name}": id(getattr(step, side)[name]) for name in names})
        return replace(step, student=_Watched(step.student, read), teacher=_Watched(step.teacher, read))

    with _stepping_through([method], watch):
        yield idle
    idle |= {name for name, tensor in shown.items() if tensor not in read}


@contextmanager
def _watching_build(kinds: Iterable[type[Distiller]]) -> Iterator[dict[type[Distiller], set[str]]]:
    """Gives what methods of these kinds read of their pairs in ``build``, inside: kind -> taps of both sides."""
    read: dict[type[Distiller], set[str]] = {}

    def watched(kind: type[Distiller], build: Callable[[Any, Pair], None]) -> Callable[[Any, Pair], None]:
        def wrapper(method: Distiller, pair: Pair) -> None:
            seen = set[int]()
            build(method, replace(pair, student=_Watched(pair.student, seen), teacher=_Watched(pair.teacher, seen)))
            sides = {"student": pair.student, "teacher": pair.teacher}
            shown = {f"{side}: {name}": id(trace[name]) for side, trace in sides.items() for name in trace}
            read[kind] = {name for name, tensor in shown.items() if tensor in seen}

        return wrapper

    with ExitStack() as stack:
        for kind in dict.fromkeys(kinds):
            stack.enter_context(patch.object(kind, "build", watched(kind, kind.build)))
        yield read


class _Watched(Trace):
    """A trace that notes which tensors are read of it.

    Args:
        trace: the trace.
        read: receives their identities.
    """

    def __init__(self, trace: Trace, read: set[int]) -> None:
        super().__init__({})
        self.trace = trace
        self.read = read

    @property
    def has_logits(self) -> bool:
        """Whether the forward reached the logits."""
        return self.trace.has_logits

    @property
    def input(self) -> Tensor:
        """The images."""
        return self.trace.input

    @property
    def logits(self) -> Tensor:
        """The logits [B, K]."""
        self.read.add(id(self.trace.logits))
        return self.trace.logits

    def __getitem__(self, name: str) -> Tensor:
        self.read.add(id(self.trace[name]))
        return self.trace[name]

    def __contains__(self, name: object) -> bool:
        return name in self.trace

    def __iter__(self) -> Iterator[str]:
        return iter(self.trace)

    def keys(self) -> KeysView[str]:
        """The names of the recorded tensors."""
        return self.trace.keys()
