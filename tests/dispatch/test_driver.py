import io
import json
import os
import signal
from types import SimpleNamespace

import pytest
from rich.console import Console

from kdengine import LaunchError
from kdengine.dispatch.driver import Driver
from kdengine.dispatch.events import EventReader
from kdengine.dispatch.plan import PlannedUnit
from kdengine.launchers.local import LocalLauncher
from kdengine.launchers.unit import Outcome, Resources, Unit
from kdengine.progress.units import UnitsProgress
from kdengine.storage.scores import CLASSIFICATION
from kdengine.training.signals import Stopped


class Scripted(LocalLauncher):
    """Units end as a script says, one after the other."""

    def __init__(self, script, **options):
        super().__init__(**options)
        self.script = {name: list(kinds) for name, kinds in script.items()}
        self.started, self.open, self.cancelled = [], [], False

    def resources(self, unit):
        return Resources(1)

    def start(self, unit):
        self.started.append(unit.name)
        self.open.append(unit.name)

    def wait(self, seconds):
        ended = [Outcome(name, self.script[name].pop(0), "the power went") for name in self.open if self.script[name]]
        self.open = [name for name in self.open if name not in {outcome.unit for outcome in ended}]
        for outcome in ended:
            if outcome.kind == "done":
                (self.folder / outcome.unit / "failed.json").write_text('{"error": "by itself"}')
        return ended

    def cancel(self):
        self.cancelled = True
        for name in self.open:
            self.script[name] = ["stopped"]


def driven(tmp_path, script, **options):
    """What a driver does with units that end in such ways: the launcher, what was given up, and what was said."""
    launcher = Scripted(script, **options)
    launcher.folder = tmp_path
    units = {}
    for name in script:
        (tmp_path / name).mkdir()
        planned = PlannedUnit(name, 1, [SimpleNamespace(folder=tmp_path / name)])
        units[name] = (planned, Unit(name, "a:b"), tmp_path / f"{name}.jsonl")
    progress, given_up = UnitsProgress(CLASSIFICATION.headline), {}
    progress.console = Console(file=io.StringIO(), width=200)
    driver = Driver(launcher, progress, lambda planned, reason: given_up.update({planned.name: reason}))
    return driver, units, launcher, given_up, progress.console.file


def test_a_lost_unit_is_tried_again_and_one_that_is_lost_too_often_is_given_up(tmp_path):
    script = {"good": ["done"], "lost": ["lost", "stopped", "done"], "hopeless": ["lost"] * 9, "bad": ["failed"]}
    driver, units, launcher, given_up, said = driven(tmp_path, script, retries=2)
    driver.run(units)
    assert {name: launcher.started.count(name) for name in script} == {"good": 1, "lost": 3, "hopeless": 3, "bad": 1}
    assert given_up == {
        "hopeless": "its unit was given up after it was lost 3 times: the power went",
        "bad": "the power went",
    }
    assert "lost: lost (the power went); retry 2 of 2" in said.getvalue()


def test_a_unit_whose_lanes_have_all_ended_is_not_tried_again(tmp_path):
    driver, units, launcher, given_up, _ = driven(tmp_path, {"unit": ["lost"]})
    (tmp_path / "unit" / "failed.json").write_text("{}")
    driver.run(units)
    assert (launcher.started, given_up) == (["unit"], {})


def test_a_unit_that_ends_without_its_lanes_is_given_up(tmp_path):
    driver, units, launcher, given_up, _ = driven(tmp_path, {"unit": ["done"]})
    launcher.folder = tmp_path / "elsewhere"
    (tmp_path / "elsewhere" / "unit").mkdir(parents=True)
    driver.run(units)
    assert given_up == {"unit": "the power went"}


def test_a_worker_that_is_not_fit_stops_everything(tmp_path):
    driver, units, launcher, given_up, _ = driven(tmp_path, {"good": [], "unfit": ["refused"]})
    with pytest.raises(LaunchError, match="the power went"):
        driver.run(units)
    assert (launcher.cancelled, given_up) == (True, {})


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_all_units_and_nothing_is_given_up(tmp_path, number, unheard_signals):
    driver, units, launcher, given_up, _ = driven(tmp_path, {"one": [], "two": []})
    first = launcher.start
    launcher.start = lambda unit: (first(unit), unit.name == "two" and os.kill(os.getpid(), number))
    with pytest.raises(Stopped):
        driver.run(units)
    assert (launcher.cancelled, given_up) == (True, {})


def test_events_are_read_as_they_come(tmp_path):
    file = tmp_path / "events"
    reader = EventReader(file)
    assert list(reader.new()) == []
    file.write_text('{"lane": "a"}\n{"la')
    assert list(reader.new()) == [{"lane": "a"}]
    assert list(reader.new()) == []
    with file.open("a") as opened:
        opened.write('ne": "b"}\nnonsense\n[1]\n')
    assert list(reader.new()) == [{"lane": "b"}]


def test_the_lanes_of_all_units_are_told_in_lines_where_nothing_can_be_redrawn():
    progress = UnitsProgress(CLASSIFICATION.headline)
    progress.console = Console(file=io.StringIO(), width=200)
    for event in (
        {"started": "node7"},
        {"lane": "trial-1 st", "total": 3, "epochs": 0, "title": "resnet8 <- resnet14"},
        {"lane": "trial-1 st", "epochs": 0.5},
        {"lane": "trial-1 st", "epochs": 1, "score": 50.0, "loss": 1.0, "seconds": 2.0, "line": "epoch 1/3  test 50.00 %"},
        {"lane": "trial-1 st", "ended": "failed: no glue"},
    ):
        progress.tell("trial-1", json.loads(json.dumps(event)))
    assert progress.console.file.getvalue().splitlines() == [
        "trial-1: started on node7",
        "trial-1 st: resnet8 <- resnet14, 3 epochs",
        "  trial-1 st: epoch 1/3  test 50.00 %",
        "trial-1 st: failed: no glue",
    ]
