"""A teacher store that workers fill, with a launcher whose workers are this process."""

from collections import deque

import pytest
import torch

from kdengine import LaunchError, Registry
from kdengine.config.settings import Settings
from kdengine.dispatch.seed_work import fill_seed
from kdengine.dispatch.teaching import Teaching
from kdengine.launchers.launcher import Launcher
from kdengine.launchers.unit import Outcome, Resources
from kdengine.networks.models import ModelSource
from kdengine.progress.filling import FillingProgress
from kdengine.runs.assignment import Assignment
from kdengine.runs.teach import Filling
from kdengine.storage.writing import write_tensors
from kdengine.training.teacher import FrozenTeacher

TRAIN = {"epochs": 2, "batch_size": 8, "precision": "fp32", "device": "cpu", "workers": 0}
BATCHES = 2 * 2 * 3
"""Batches of two epochs of two seeds."""


class Here(Launcher):
    """Workers are this process; what a script holds for a unit happens to its tries first."""

    name = "here"

    def __init__(self, script=None, **options):
        super().__init__(**options)
        self.script = {name: list(kinds) for name, kinds in (script or {}).items()}
        self.waiting, self.tries, self.cancelled = deque(), [], False

    def open(self, demand):
        self.demand = demand

    def at_once(self, lanes):
        return 1

    def resources(self, unit):
        return Resources(1)

    def start(self, unit):
        self.waiting.append(unit)

    def wait(self, seconds):
        if self.cancelled or not self.waiting:
            stopped = [Outcome(unit.name, "stopped", "it had not begun") for unit in self.waiting]
            self.waiting.clear()
            return stopped
        unit = self.waiting.popleft()
        self.tries.append(unit.name)
        kind = self.script.get(unit.name, []) and self.script[unit.name].pop(0)
        if kind in ("failed", "refused"):
            return [Outcome(unit.name, kind, "the glue has dried")]
        try:
            fill_seed(**unit.arguments)
        except RuntimeError:
            return [Outcome(unit.name, "lost", "the power went")]
        return [Outcome(unit.name, kind or "done")]

    def cancel(self):
        self.cancelled = True

    def close(self):
        pass


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Those of a teacher."""
    file = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    write_tensors(file, ModelSource("cnn2", {"num_classes": 10}, (3, 32, 32), Registry()).create(5).state_dict())
    return str(file)


@pytest.fixture
def teaching(tmp_path, weights, monkeypatch):
    """What fills two seeds by a launcher; its progress; and the number of forwards of the teacher that are allowed."""
    forwards, whole = [], FrozenTeacher._forward

    def forward(self, *arguments, **named):
        forwards.append(1)
        if len(forwards) == made.dies_at:
            raise RuntimeError
        return whole(self, *arguments, **named)

    def made(launcher, folder="store"):
        names = {"student": "module:nobody", "teacher": "cnn2", "teacher_weights": weights, "data": "digits@train=20@test=16"}
        settings = Settings.checked({**names, "train": TRAIN, "teacher_store": {"folder": str(tmp_path / folder)}})
        assignment = Assignment.complete(settings, modules={"student": torch.nn.Identity()})
        filling = Filling(assignment.session(), trials=2)
        return Teaching(filling, assignment, launcher), FillingProgress(filling.epochs, filling.batches, quiet=True)

    made.dies_at, made.forwards = None, forwards
    monkeypatch.setattr(FrozenTeacher, "_forward", forward)
    monkeypatch.setattr("kdengine.dispatch.duty._log", lambda: None)
    return made


def contents(store):
    return {file.relative_to(store): file.read_bytes() for file in store.rglob("epoch-*/*")}


def test_a_worker_that_is_lost_is_followed_by_one_that_fills_the_rest(teaching, tmp_path):
    plain, progress = teaching(Here(), "plain")
    plain.filling.run(progress)
    assert (len(teaching.forwards), progress.done) == (BATCHES, BATCHES)
    teaching.forwards.clear()
    teaching.dies_at = 5
    launcher = Here()
    launched, progress = teaching(launcher)
    facts = launched.run(progress)
    assert launcher.tries == ["seed-0", "seed-1", "seed-0"]
    assert len(teaching.forwards) == BATCHES + 1, "a batch that was there was made again"
    assert (progress.done, facts["seeds"], facts["batches"]) == (BATCHES, [0, 1], BATCHES)
    assert contents(tmp_path / "store") == contents(tmp_path / "plain") != {}
    assert [file.name for file in (tmp_path / "store").iterdir() if file.name.startswith(".units")] == []


def test_a_seed_that_fails_is_named_with_the_reason_and_the_same_command_goes_on(teaching, tmp_path):
    launched, progress = teaching(Here({"seed-1": ["failed"]}))
    with pytest.raises(LaunchError, match=r"seed 1: the glue has dried\. .*run the same command again"):
        launched.run(progress)
    assert len(teaching.forwards) == BATCHES // 2
    launched, progress = teaching(Here())
    launched.run(progress)
    assert len(teaching.forwards) == BATCHES
    assert progress.done == BATCHES


def test_an_unfit_worker_stops_all_and_leaves_no_trace(teaching, tmp_path):
    launched, progress = teaching(Here({"seed-0": ["refused"]}))
    with pytest.raises(LaunchError, match="the glue has dried"):
        launched.run(progress)
    assert not (tmp_path / "store").exists()
    given = {"settings": {}, "seed": 0, "trials": 1, "views": 1, "files": str(tmp_path), "events": "e", "argv": []}
    with pytest.raises(LaunchError, match="it lacks kdplugin-nowhere 1"):
        fill_seed(**given, expected={"versions": {"kdplugin-nowhere": "1"}})
    assert not (tmp_path / "e").exists()


def test_a_teacher_that_exists_in_this_process_alone_is_refused(teaching):
    launched, progress = teaching(Here())
    launched.assignment.modules["teacher"] = torch.nn.Identity()
    with pytest.raises(LaunchError, match="the teacher was passed as a module"):
        launched.run(progress)
