"""The contract of an observer, as a test class to inherit."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pluggy
import torch

from kdengine.errors import cause
from kdengine.plugins.hookspecs import hookimpl
from kdengine.plugins.loader import hooks_in, make_manager
from kdengine.plugins.registry import Registry
from kdengine.runs.result import Result
from kdengine.testing.networks import tiny_pair
from kdengine.testing.small_run import EPOCHS, noise, small_run

__all__ = ["ObserverContract"]

TIMES = ("seconds", "images_per_second")
"""Numbers of a row that no two runs share."""


class ObserverContract:
    """What every observer must satisfy, in runs of two epochs.

    Inherit from it, and pytest runs every check::

        class TestLines(ObserverContract):
            observer = "lines"

    Attributes:
        observer: the name of an installed plugin, or a module or an object with hooks.
    """

    observer: ClassVar[object]

    def run(self, folder: Path, *others: object) -> Result:
        """Run with the observer, and others, or resume the run in the folder."""
        registry, observers = Registry(), [*others]
        if isinstance(self.observer, str):
            registry.methods(self.observer)
        else:
            observers = [self.observer, *observers]
        return _run(folder, registry, observers)

    def test_it_has_hooks(self) -> None:
        """At least one, and none that does not exist."""
        manager = self._registered()
        try:
            manager.check_pending()
        except pluggy.PluginValidationError as error:
            raise AssertionError(cause(error)) from error
        (observer,) = manager.get_plugins()
        hooks = set(hooks_in(observer)) - {"kdengine_register", "kdengine_commands"}
        assert hooks, "it has no hook: mark functions such as kdengine_after_epoch with @hookimpl"

    def test_a_run_is_observed_to_its_end(self) -> None:
        """No hook fails in a run of two epochs."""
        with _folder() as folder:
            assert len(self.run(folder / "run").history) == EPOCHS

    def test_it_changes_nothing_of_what_is_computed(self) -> None:
        """Weights, terms and measures are those of a run without it; it may add to a row, but not change it."""
        with _folder() as folder:
            alone, observed = _run(folder / "alone", Registry(), ()), self.run(folder / "observed")
        for name, value in alone.student.state_dict().items():
            same = torch.equal(value, observed.student.state_dict()[name])
            assert same, f"the student's {name} differs from that of a run without the observer"
        for before, after in zip(alone.history, observed.history, strict=True):
            changed = [key for key, value in before.items() if key not in TIMES and after.get(key) != value]
            assert not changed, f"the observer changes {', '.join(changed)} in the row of epoch {before['epoch']}"

    def test_an_interrupted_run_can_be_resumed(self) -> None:
        """After an error in the second epoch, which stays the one that is reported, the run is resumed to its end."""
        with _folder() as folder:
            try:
                self.run(folder / "run", _Unplugging())
            except _UnpluggedError as error:
                second = [note for note in getattr(error, "__notes__", ()) if note.startswith("and then:")]
                assert not second, f"a hook fails when a run ends in an error, {second[0]}"
            assert len(self.run(folder / "run").history) == EPOCHS

    def test_one_run_leaves_the_folder_of_another_alone(self) -> None:
        """A second run in the same process writes nothing into the folder of the first one."""
        with _folder() as folder:
            self.run(folder / "first")
            before = _contents(folder / "first")
            self.run(folder / "second")
            changed = _changed(before, _contents(folder / "first"))
            assert not changed, f"a second run changes {', '.join(changed)} of the first one: keep what you know by run.folder"

    def test_only_the_first_of_several_processes_writes(self) -> None:
        """Where ``run.runtime.is_main`` is false, nothing is written into the run folder."""
        noting = _Noting()
        with _folder() as folder:
            result = _run(folder / "run", Registry(), [noting])
            before = _contents(folder / "run")
            view, hook = _Elsewhere(noting.run), self._registered().hook
            hook.kdengine_before_fit(run=view)
            for row in result.history:
                hook.kdengine_after_step(run=view, done=1, total=1, terms={"task": torch.zeros(())})
                hook.kdengine_after_epoch(run=view, record=dict(row))
            hook.kdengine_after_fit(run=view, result=result)
            hook.kdengine_on_error(run=view, error=_UnpluggedError())
            changed = _changed(before, _contents(folder / "run"))
            assert not changed, f"{', '.join(changed)} is written where run.runtime.is_main is false: return there"

    def _registered(self) -> pluggy.PluginManager:
        """A manager with the observer alone."""
        observer, manager = self.observer, make_manager()
        if isinstance(observer, str):
            registry = Registry()
            registry.methods(observer)
            (observer,) = (plugin.module for plugin in registry.plugins if plugin.selected)
        manager.register(observer)
        return manager


class _UnpluggedError(Exception):
    """What ends a run early."""


class _Unplugging:
    """Ends a run in its second epoch."""

    @hookimpl(trylast=True)
    def kdengine_after_step(self, run: Any) -> None:
        if run.lane.history:
            raise _UnpluggedError


class _Noting:
    """Keeps the run."""

    run: Any

    @hookimpl
    def kdengine_before_fit(self, run: Any) -> None:
        self.run = run


class _Elsewhere:
    """A run as another process than the first one sees it.

    Args:
        run: the run.
    """

    def __init__(self, run: Any) -> None:
        self.of = run
        self.runtime = SimpleNamespace(is_main=False)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.of, name)


def _run(folder: Path, registry: Registry, observers: Sequence[object]) -> Result:
    return small_run(folder, tiny_pair()[1], noise(torch.arange(48) % 10, 10), registry, observers)


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def _changed(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> list[str]:
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
