import os
import signal
import time
from typing import ClassVar

import pytest

from kdengine import Launcher, LaunchError, PluginError, Registry
from kdengine.launchers.local import LocalLauncher
from kdengine.launchers.unit import Demand, Outcome, Unit
from kdengine.launchers.worker import Worker
from kdengine.plugins.discovery import Registrar
from kdengine.plugins.plugin import Plugin
from kdengine.testing import LauncherContract


class TestLocal(LauncherContract):
    launcher = LocalLauncher
    options: ClassVar = {"workers": 2, "threads": 1}


def caught(contract, check, folder):
    """Whether a check of the contract finds a fault."""
    try:
        getattr(contract(), check)(folder)
    except AssertionError:
        return True
    return False


class Twice(LocalLauncher):
    """Starts every unit a second time, and hides that."""

    def __init__(self, **options):
        super().__init__(**options)
        self.units, self.seen = {}, set()

    def wait(self, seconds):
        ended = [outcome for outcome in super().wait(seconds) if outcome.unit not in self.seen]
        for outcome in ended:
            self.seen.add(outcome.unit)
            super().start(self.units[outcome.unit])
        return ended

    def start(self, unit):
        self.units[unit.name] = unit
        super().start(unit)


class Rosy(LocalLauncher):
    """Says that every unit is done."""

    def wait(self, seconds):
        return [Outcome(outcome.unit, "done") for outcome in super().wait(seconds)]


class Forgetful(LocalLauncher):
    """Never speaks of units that were lost."""

    def wait(self, seconds):
        return [outcome for outcome in super().wait(seconds) if outcome.kind != "lost"]


class Rough(LocalLauncher):
    """Kills instead of stopping."""

    def cancel(self):
        for worker in self._workers:
            worker._stopping = True
            os.kill(worker.pid, signal.SIGKILL)
        super().cancel()


class Leaky(LocalLauncher):
    """Leaves its processes behind."""

    def close(self):
        self.left = [worker.pid for worker in self._workers if worker.pid]


class Greedy(LocalLauncher):
    """Promises threads that it does not give."""

    def resources(self, unit):
        return type(super().resources(unit))(threads=9)


@pytest.mark.parametrize(
    ("kind", "check"),
    [
        (Twice, "test_every_unit_is_run_exactly_once"),
        (Rosy, "test_a_unit_that_fails_is_reported_with_the_reason_and_the_others_go_on"),
        (Forgetful, "test_a_killed_worker_is_reported_as_lost_and_its_unit_can_be_started_again"),
        (Rough, "test_cancel_stops_what_runs_and_drops_what_waits"),
        (Leaky, "test_close_ends_what_still_runs"),
        (Greedy, "test_a_unit_gets_the_threads_that_it_is_promised"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_the_contract_finds_planted_faults(kind, check, tmp_path):
    made = []

    class Contract(LauncherContract):
        launcher = staticmethod(lambda **options: made.append(kind(**options)) or made[-1])
        options: ClassVar = {"workers": 2, "threads": 1}
        seconds = 4.0

    try:
        assert caught(Contract, check, tmp_path)
    finally:
        for launcher in made:
            LocalLauncher.close(launcher)


def test_a_worker_that_was_stopped_from_outside_says_so(tmp_path):
    worker = Worker(threads=1)
    unit = Unit("unit", "kdengine.launchers.errands:hold", {"file": str(tmp_path / "unit")}, folder=str(tmp_path))
    worker.begin(unit)
    while not (tmp_path / "unit").exists():
        time.sleep(0.02)
    os.kill(worker.pid, signal.SIGTERM)
    assert worker.finish(30).kind == "stopped"
    assert (tmp_path / "unit").read_text().endswith("done\n")
    worker.close()


def test_a_unit_saves_its_state_when_its_driver_is_gone(tmp_path):
    worker = Worker(threads=1)
    unit = Unit("unit", "kdengine.launchers.errands:hold", {"file": str(tmp_path / "unit")}, folder=str(tmp_path))
    worker.begin(unit)
    while not (tmp_path / "unit").exists():
        time.sleep(0.02)
    worker._process.stdin.close()
    worker._process.wait(30)
    assert (tmp_path / "unit").read_text().endswith("done\n")
    worker.unit = None
    worker.close()


def test_a_machine_that_is_not_fit_is_refused_by_name(tmp_path):
    expected = {
        "versions": {"torch": "0.4", "kdplugin-nowhere": "1.0"},
        "token": {"path": str(tmp_path / "token"), "text": "a"},
    }
    (tmp_path / "token").write_text("b")
    with pytest.raises(LaunchError) as refusal:
        LocalLauncher().open(Demand("cpu", str(tmp_path), expected))
    for part in ("has torch ", ", not 0.4", "lacks kdplugin-nowhere 1.0", "does not see the folder"):
        assert part in str(refusal.value)


def test_launchers_are_found_by_name():
    assert Registry().launcher("local") is LocalLauncher
    with pytest.raises(PluginError, match=r"There is no launcher 'lokal'. Did you mean 'local'"):
        Registry().launcher("lokal")


@pytest.mark.parametrize(
    ("name", "launcher", "fault"),
    [
        ("mine", Launcher, "without abstract methods"),
        ("mine", LocalLauncher, "is called 'local' in its class"),
        ("local", object, "takes a subclass of kdengine.Launcher"),
    ],
)
def test_only_launchers_are_registered(name, launcher, fault):
    with pytest.raises(PluginError, match=fault):
        Registrar(Plugin("a", "b", "1", "c")).launcher(name, launcher)
