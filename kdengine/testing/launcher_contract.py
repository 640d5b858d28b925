"""The contract of a launcher, as a test class to inherit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import psutil

from kdengine.errors import SettingsError
from kdengine.launchers.launcher import Launcher
from kdengine.launchers.unit import Demand, Outcome, Unit

__all__ = ["LauncherContract"]

ERRANDS = "kdengine.launchers.errands"


class LauncherContract:
    """What every launcher must do, tried with units that take milliseconds, on this machine.

    Inherit from it, and pytest runs every check::

        class TestLocal(LauncherContract):
            launcher = LocalLauncher
            options = {"workers": 2}

    Attributes:
        launcher: the class.
        options: options for this machine, with room for one to three units at once.
        seconds: how long a check may wait before it fails.
    """

    launcher: ClassVar[type[Launcher]]
    options: ClassVar[Mapping[str, Any]] = {}
    seconds: ClassVar[float] = 120.0

    @contextmanager
    def opened(self, folder: Path) -> Iterator[Launcher]:
        """A launcher that works in a folder; it is closed afterwards."""
        launcher = self.launcher(**self.options)
        try:
            launcher.open(Demand("cpu", str(folder)))
            yield launcher
        finally:
            launcher.close()

    def outcomes(self, launcher: Launcher, count: int) -> dict[str, Outcome]:
        """Wait for so many units to end; each may end once only."""
        ended: dict[str, Outcome] = {}
        deadline = time.monotonic() + self.seconds
        while len(ended) < count:
            assert time.monotonic() < deadline, f"after {self.seconds:g} s, only {sorted(ended)} of {count} units have ended"
            for outcome in launcher.wait(0.5):
                assert outcome.unit not in ended, f"'{outcome.unit}' ended twice: {ended[outcome.unit]}, then {outcome}"
                ended[outcome.unit] = outcome
        assert not launcher.wait(0.1), "more units have ended than were started"
        return ended

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until a condition is met."""
        deadline = time.monotonic() + self.seconds
        while not condition():
            assert time.monotonic() < deadline, f"after {self.seconds:g} s, {what}"
            time.sleep(0.05)

    def test_every_unit_is_run_exactly_once(self, tmp_path: Path) -> None:
        """Also where there are more of them than can run at once."""
        with self.opened(tmp_path) as launcher:
            names = [f"unit-{number}" for number in range(launcher.at_once(1) + 2)]
            for name in names:
                launcher.start(_unit("mark", name, tmp_path))
            ended = self.outcomes(launcher, len(names))
        assert {name: (outcome.kind, outcome.reason) for name, outcome in ended.items()} == dict.fromkeys(names, ("done", ""))
        runs = {name: _lines(tmp_path / name) for name in names}
        assert all(lines == ["done"] for lines in runs.values()), f"{runs}: a unit was not run exactly once"

    def test_a_unit_that_fails_is_reported_with_the_reason_and_the_others_go_on(self, tmp_path: Path) -> None:
        """So is one that refuses to work on its worker."""
        with self.opened(tmp_path) as launcher:
            launcher.start(_unit("fail", "bad", tmp_path, message="the glue has dried"))
            launcher.start(_unit("refuse", "unfit", tmp_path, message="wrong tools"))
            launcher.start(_unit("mark", "good", tmp_path))
            ended = self.outcomes(launcher, 3)
        assert {name: outcome.kind for name, outcome in ended.items()} == {"bad": "failed", "unfit": "refused", "good": "done"}
        assert "the glue has dried" in ended["bad"].reason
        assert ended["unfit"].reason == "wrong tools"

    def test_a_killed_worker_is_reported_as_lost_and_its_unit_can_be_started_again(self, tmp_path: Path) -> None:
        """The launcher itself tries nothing again: how often that is worth it is not its business."""
        with self.opened(tmp_path) as launcher:
            launcher.start(_unit("die_once", "unlucky", tmp_path))
            ended = self.outcomes(launcher, 1)["unlucky"]
            assert ended.kind == "lost", f"a worker was killed, and its unit is reported as {ended}"
            assert ended.reason, "the reason of the loss is empty"
            assert _lines(tmp_path / "unlucky") == ["done"], "the launcher has started a lost unit again by itself"
            launcher.start(_unit("die_once", "unlucky", tmp_path))
            assert self.outcomes(launcher, 1)["unlucky"].kind == "done"
        assert _lines(tmp_path / "unlucky") == ["done", "done"]

    def test_cancel_stops_what_runs_and_drops_what_waits(self, tmp_path: Path) -> None:
        """What runs can save its state."""
        with self.opened(tmp_path) as launcher:
            names = [f"unit-{number}" for number in range(launcher.at_once(1) + 2)]
            for name in names:
                launcher.start(_unit("hold", name, tmp_path))
            self.until(lambda: _idle(launcher) and any(_lines(tmp_path / name) for name in names), "no unit has begun")
            launcher.cancel()
            ended = self.outcomes(launcher, len(names))
        assert {name: outcome.kind for name, outcome in ended.items()} == dict.fromkeys(names, "stopped")
        begun = [lines for name in names if (lines := _lines(tmp_path / name))]
        assert 0 < len(begun) < len(names), "units that were waiting have begun after cancel()"
        assert all(lines[1:] == ["done"] for lines in begun), "a unit was not asked to save before it was stopped"

    def test_close_ends_what_still_runs(self, tmp_path: Path) -> None:
        """By force; and it may be called again."""
        with self.opened(tmp_path) as launcher:
            launcher.start(_unit("hold", "unit", tmp_path))
            self.until(lambda: _idle(launcher) and bool(_lines(tmp_path / "unit")), "the unit has not begun")
            launcher.close()
            (process, *_) = map(int, _lines(tmp_path / "unit")[:1])
            self.until(lambda: not _lives(process), "the process of a unit outlives its launcher")

    def test_a_unit_gets_the_threads_that_it_is_promised(self, tmp_path: Path) -> None:
        """In ``OMP_NUM_THREADS``, because its numbers depend on them."""
        with self.opened(tmp_path) as launcher:
            unit = _unit("threads", "unit", tmp_path)
            launcher.start(unit)
            assert self.outcomes(launcher, 1)["unit"].kind == "done"
            promised = launcher.resources(unit).threads
        assert (tmp_path / "unit").read_text(encoding="utf-8") == str(promised), "a unit does not get the promised threads"

    def test_an_unknown_option_is_refused_with_the_nearest_name(self) -> None:
        """For ``retrys``, the error suggests ``retries``."""
        message = ""
        try:
            self.launcher(retrys=1)
        except SettingsError as error:
            message = str(error)
        assert "'retries'" in message, f"the option 'retrys' gives {message or 'no error'}"

    def test_the_description_is_complete(self) -> None:
        """A summary, and help for each option."""
        facts = self.launcher.describe()
        assert facts["summary"], "the class has no docstring"
        assert [name for name, option in facts["options"].items() if not option["help"]] == []


def _unit(errand: str, name: str, folder: Path, **arguments: str) -> Unit:
    given = arguments or {"file": str(folder / name)}
    return Unit(name, f"{ERRANDS}:{errand}", given, folder=str(folder), log=str(folder / f"{name}.log"))


def _idle(launcher: Launcher) -> bool:
    """Let a launcher look after its units; none of them ends by itself."""
    ended = launcher.wait(0.05)
    assert not ended, f"units that wait to be stopped have ended: {ended}"
    return True


def _lines(file: Path) -> Sequence[str]:
    return file.read_text(encoding="utf-8").splitlines() if file.exists() else []


def _lives(process: int) -> bool:
    try:
        return bool(psutil.Process(process).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
