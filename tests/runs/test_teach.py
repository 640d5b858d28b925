"""Filling a store ahead: the runs that follow never run the teacher."""

import os
import signal
import subprocess
import sys

import pytest
from torch import nn

from kdengine import Engine, Registry, SettingsError
from kdengine.config.settings import Settings
from kdengine.errors import StorageError
from kdengine.networks.models import ModelSource
from kdengine.runs.assignment import Assignment
from kdengine.runs.teach import Filling
from kdengine.storage.store_folder import StoreFolder
from kdengine.training.signals import Stopped

TRAIN = {"epochs": 2, "batch_size": 8, "precision": "fp32", "device": "cpu", "lr": 0.02, "workers": 0}
DATA = "digits@train=20@test=16"


def network(seed=5):
    return ModelSource("resnet8", {"num_classes": 10}, (3, 32, 32), Registry()).create(seed)


def filling(folder, trials=1, views=1, teacher=None, train=None, **more):
    names = {"student": "module:nobody", "teacher": "module:CifarResNet", "data": DATA}
    store = more.pop("teacher_store", {"folder": str(folder)})
    settings = Settings.checked({**names, "train": {**TRAIN, **(train or {})}, "teacher_store": store, **more})
    modules = {"student": nn.Identity(), "teacher": teacher or network()}
    return Filling(Assignment.complete(settings, modules=modules).session(), trials, views)


def quiet(*_):
    """Hears of batches, and says nothing."""


def test_a_run_after_it_never_runs_the_teacher_and_a_second_filling_makes_nothing(tmp_path, forwards):
    facts = filling(tmp_path / "store", trials=2, views=2).run(quiet)
    assert (forwards(), facts["batches"], facts["seeds"]) == (2 * 2 * 2 * 3, 12, [0, 1])
    assert facts["bytes"] == StoreFolder(tmp_path / "store").size
    files = {file: file.read_bytes() for file in (tmp_path / "store").rglob("*") if file.is_file()}
    filling(tmp_path / "store", trials=2, views=2).run(quiet)
    assert forwards() == 0
    assert all(file.read_bytes() == content for file, content in files.items())
    for seed, method in ((1, "st"), (0, "mlld")):
        options = {**TRAIN, "seed": seed, "teacher_store": tmp_path / "store"}
        Engine(network(), "resnet8", [method], DATA, out=tmp_path / method, **options).fit()
    assert forwards() == 0
    assert all(file.read_bytes() == content for file, content in files.items())


def test_it_goes_on_where_it_was_interrupted(tmp_path, forwards, unheard_signals):
    heard = []

    def stop(seed, epoch, there, total):
        heard.append((epoch, there))
        if (epoch, there) == (1, 1):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Stopped):
        filling(tmp_path / "store").run(stop)
    assert heard == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1)]
    assert forwards() == 4
    heard.clear()
    filling(tmp_path / "store").run(lambda seed, epoch, there, total: heard.append((epoch, there)))
    assert heard == [(0, 3), (1, 1), (1, 2), (1, 3)]
    assert forwards() == 2


def test_seeds_and_teachers_are_added_but_nothing_of_other_batches(tmp_path):
    filling(tmp_path, train={"epochs": 1}).run(quiet)
    filling(tmp_path, train={"epochs": 1}, seed=7).run(quiet)
    filling(tmp_path, train={"epochs": 1}, teacher=network(6)).run(quiet)
    note = StoreFolder(tmp_path).note()
    assert (note["seeds"], len(note["teachers"])) == ([0, 7], 2)
    with pytest.raises(SettingsError, match=r"under train\.batch_size = 8; this run has train\.batch_size = 16"):
        filling(tmp_path, train={"batch_size": 16})


def test_what_a_teacher_shows_of_another_input_is_kept_apart(tmp_path, forwards):
    wider, once = {"teacher_input": {"size": 40}}, {"epochs": 1}
    filling(tmp_path, train=once).run(quiet)
    filling(tmp_path, train=once, **wider).run(quiet)
    assert forwards() == 2 * 3
    assert [entry["input"]["size"] for entry in StoreFolder(tmp_path).note()["teachers"].values()] == [[3, 32, 32], [3, 40, 40]]
    filling(tmp_path, train=once, teacher=network(6), **wider).run(quiet)
    forwards()
    shared = {**TRAIN, **once, "data": DATA, "teacher_store": tmp_path}
    for number, more in enumerate(({}, wider)):
        Engine(network(), "resnet8", ["st"], out=tmp_path / f"{number}", **shared, **more).fit()
    assert forwards() == 0
    with pytest.raises(SettingsError, match=r"holds what .* showed with the weights .*; this run has the weights"):
        Engine(network(6), "resnet8", ["st"], out=tmp_path / "never", **shared).fit()


def test_without_a_teacher_or_a_folder_it_says_what_is_missing(tmp_path):
    with pytest.raises(SettingsError, match="--teacher-store FOLDER is missing"):
        filling(tmp_path, teacher_store={})
    settings = Settings.checked({"student": "module:nobody", "data": DATA, "teacher_store": str(tmp_path)})
    with pytest.raises(SettingsError, match="--teacher SPEC is missing"):
        Filling(Assignment.complete(settings, modules={"student": nn.Identity()}).session())


def test_a_disk_that_fills_up_ends_it_and_what_was_written_is_kept(tmp_path, monkeypatch, forwards):
    from kdengine.storage import slots

    whole, writes = slots._write_at, []

    def write(*arguments):
        writes.append(1)
        if len(writes) > 9:  # two writes a tap, two taps a batch
            raise OSError(28, "No space left on device")
        whole(*arguments)

    monkeypatch.setattr(slots, "_write_at", write)
    with pytest.raises(StorageError, match=r"is full.*run the same command again"):
        filling(tmp_path / "store").run(quiet)
    monkeypatch.setattr(slots, "_write_at", whole)
    forwards()
    filling(tmp_path / "store").run(quiet)
    assert forwards() == 4


CHILD = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import test_teach
def told(seed, epoch, there, total):
    if len(sys.argv) > 3 and (epoch, there) == (1, int(sys.argv[3])):
        os.kill(os.getpid(), signal.SIGKILL)
test_teach.filling(sys.argv[2]).run(told)
"""


def child(folder, *kill):
    return subprocess.Popen([sys.executable, "-c", CHILD, os.path.dirname(__file__), str(folder), *kill])


@pytest.mark.slow
def test_a_filling_that_was_killed_is_finished(tmp_path, forwards):
    assert child(tmp_path / "store", "2").wait(120) == -signal.SIGKILL
    filling(tmp_path / "store").run(quiet)
    assert forwards() == 1
    filling(tmp_path / "whole").run(quiet)
    assert contents(tmp_path / "store") == contents(tmp_path / "whole")


@pytest.mark.slow
def test_two_processes_fill_one_store_at_the_same_time(tmp_path, forwards):
    children = [child(tmp_path / "store") for _ in range(2)]
    assert [process.wait(240) for process in children] == [0, 0]
    filling(tmp_path / "store").run(quiet)
    assert forwards() == 0
    filling(tmp_path / "whole").run(quiet)
    assert contents(tmp_path / "store") == contents(tmp_path / "whole")


def contents(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("epoch-*/*")}
