"""Comparisons whose lanes are trained by other processes, for real."""

import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from kdengine import Comparison, Distiller, LaunchError, hookimpl
from kdengine.dispatch.handover import TEACHERS, take_teachers
from kdengine.dispatch.unit_work import train_lanes
from kdengine.launchers.local import LocalLauncher
from kdengine.storage.runfolder import RunFolder
from kdengine.storage.writing import write_json, write_tensors

DATA = "digits@train=48@test=16"
FAST = {"precision": "fp32", "device": "cpu", "batch_size": 8, "lr": 0.02, "epochs": 3, "teacher_train": {"epochs": 1}}
METHODS = ["st", "fitnet"]
TIMES = ("seconds", "images_per_second")


def compare(out, **changes):
    return Comparison("resnet14", "resnet8", METHODS, DATA, out=out, **{**FAST, **changes})


def rows_of(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


def check_equal(one, other):
    """Every metric, and every weight, bit for bit."""
    lanes = sorted(file.parent.relative_to(one) for file in one.rglob("result.json"))
    assert lanes == sorted(file.parent.relative_to(other) for file in other.rglob("result.json"))
    assert len(lanes) >= 3
    for lane in lanes:
        assert rows_of(one / lane) == rows_of(other / lane), lane
        for file in sorted((one / lane).glob("*.safetensors")):
            mine, theirs = load_file(file), load_file(other / lane / file.name)
            assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == [], (lane, file.name)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A comparison without a launcher."""
    folder = tmp_path_factory.mktemp("plain") / "out"
    return folder, compare(folder).fit().table()


class Killing(LocalLauncher):
    """Kills a worker once it has begun, or once a lane has saved a finished epoch; as often as it is told."""

    def __init__(self, times, after_epoch, folder, **options):
        super().__init__(**options)
        self.times, self.after_epoch, self.folder, self.first = times, after_epoch, folder, ""

    def wait(self, seconds):
        rows = self.folder / "trial-1" / "st" / "metrics.jsonl"
        begun = [worker for worker in self._workers if worker.unit is not None]
        saved = RunFolder(rows.parent).state_file.exists()  # written after the row
        if self.times and begun and (not self.after_epoch or saved):
            self.times -= 1
            self.first = rows.read_text().splitlines()[0] if rows.exists() else ""
            for worker in begun:
                os.kill(worker.pid, signal.SIGKILL)
        return super().wait(seconds)


def columns(table):
    """The rows of a table without the time that an epoch took."""
    place = table.columns.index("s/epoch")
    return [row[:place] + row[place + 1 :] for row in table.rows]


@pytest.mark.slow
def test_local_workers_give_what_one_process_gives_bit_for_bit(plain, tmp_path):
    folder, table = plain
    launched = compare(tmp_path / "out").fit(on=LocalLauncher(workers=2, threads=1))
    assert columns(launched.table()) == columns(table)
    check_equal(folder, tmp_path / "out")
    assert not (tmp_path / "out" / "units").exists(), "what driver and workers told each other is left behind"
    manifest = json.loads((tmp_path / "out" / "trial-1" / "st" / "manifest.json").read_text())
    assert manifest["argv"] == sys.argv


@pytest.mark.slow
def test_the_lanes_of_several_students_are_carried_too(tmp_path):
    for name, on in (("alone", None), ("launched", LocalLauncher(workers=2, threads=1))):
        students = {"small": "cnn2", "large": "resnet8"}
        Comparison("resnet14", students, ["st"], DATA, out=tmp_path / name, **{**FAST, "epochs": 1}, latency=False).fit(on=on)
    check_equal(tmp_path / "alone", tmp_path / "launched")
    assert (tmp_path / "launched" / "trial-1" / "small" / "st" / "result.json").exists()


@pytest.mark.slow
def test_a_worker_that_is_killed_goes_on_where_it_was(plain, tmp_path):
    launcher = Killing(1, True, tmp_path / "out", workers=1, threads=1)
    compare(tmp_path / "out").fit(on=launcher)
    assert launcher.times == 0
    check_equal(plain[0], tmp_path / "out")
    rows = (tmp_path / "out" / "trial-1" / "st" / "metrics.jsonl").read_text().splitlines()
    assert rows[0] == launcher.first, "a finished epoch was trained again"


@pytest.mark.slow
def test_a_unit_that_is_lost_for_good_is_rows_that_say_why_and_can_be_resumed_without_a_launcher(plain, tmp_path):
    board = compare(tmp_path / "out").fit(on=Killing(2, False, tmp_path / "out", workers=1, threads=1, retries=1))
    failures = {row["method"]: row["failure"] for row in board.rows}
    assert set(failures) == {"plain", "st", "fitnet"}
    for reason in failures.values():
        assert "given up after it was lost 2 times: its worker was killed by SIGKILL" in reason
    assert (tmp_path / "out" / "units" / "trial-1.log").exists()
    Comparison.resume(tmp_path / "out").fit()
    check_equal(plain[0], tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_driver_saves_all_and_is_resumed_with_another_launcher(plain, tmp_path, number):
    flags = "compare --methods st,fitnet --teacher resnet14 --student resnet8 --epochs 3 --teacher-epochs 1 --lr 0.02"
    flags += f" --batch-size 8 --device cpu -o train.precision=fp32 --data {DATA} --out out --on local -o local.workers=2"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "kdengine", *flags.split()]
    driver = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    rows = tmp_path / "out" / "trial-1" / "st" / "metrics.jsonl"
    while not rows.exists() and driver.poll() is None:
        time.sleep(0.05)
    driver.send_signal(number)
    _, said = driver.communicate(timeout=120)
    assert driver.returncode == 130, said
    assert "To resume: kdengine compare --resume out --on local" in said
    assert "Traceback" not in said
    first = rows.read_text().splitlines()[0]
    Comparison.resume(tmp_path / "out").fit(on=LocalLauncher(workers=1, threads=1))
    check_equal(plain[0], tmp_path / "out")
    assert rows.read_text().splitlines()[0] == first


class Mine(Distiller):
    """A method that no plugin offers."""

    name = "mine"

    def forward(self, step):
        return {"term": step.student.logits.mean()}


class Watcher:
    @hookimpl
    def kdengine_before_fit(self, run):
        pass


def test_what_exists_in_this_process_alone_is_refused_by_name(tmp_path, digits):
    comparison = Comparison(
        torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10)),
        "resnet8",
        {"mine": [Mine()]},
        digits,
        out=tmp_path / "out",
        observers=[Watcher()],
        **{**FAST, "teacher_train": {}},
    )
    with pytest.raises(LaunchError) as refusal:
        comparison.fit(on="local")
    objects = ("the teacher was passed as a module", "the data was passed as an object", "the method 'mine' was passed")
    for part in (*objects, "Watcher observes it as an object"):
        assert part in str(refusal.value)


def test_a_worker_with_other_versions_refuses_before_it_does_anything(tmp_path):
    given = {"folder": str(tmp_path), "trial": 1, "lanes": [], "files": str(tmp_path), "argv": []}
    with pytest.raises(LaunchError, match=r"cannot take part: it has torch .*, not 0\.4; it lacks kdplugin-nowhere 1"):
        train_lanes(**given, expected={"versions": {"torch": "0.4", "kdplugin-nowhere": "1"}})
    with pytest.raises(LaunchError, match="the disk is not shared"):
        train_lanes(**given, expected={"token": {"path": str(tmp_path / "token"), "text": "a"}})


def test_a_teacher_that_differs_from_the_drivers_is_refused(tmp_path):
    module = torch.nn.Linear(2, 2)
    network = SimpleNamespace(module=module, name="small")
    session = SimpleNamespace(teachers=[SimpleNamespace(network=network, is_trained_first=True, role="teacher")])
    write_tensors(tmp_path / "teacher-1.safetensors", module.state_dict())
    write_json(tmp_path / TEACHERS, {"facts": {"fingerprint": "0"}, "files": ["teacher-1.safetensors"]})
    with pytest.raises(LaunchError, match="The teacher 'small' differs from the driver's"):
        take_teachers(session, tmp_path)


def test_a_plan_leaves_no_trace(tmp_path):
    units = compare(tmp_path / "out", trials=2).units(LocalLauncher(workers=2, threads=3))
    assert [(unit["unit"], unit["lanes"], unit["teacher_pass"], unit["threads"]) for unit in units] == [
        ("trial-1", ["plain", "st", "fitnet"], True, 3),
        ("trial-2", ["plain", "st", "fitnet"], True, 3),
    ]
    assert list(tmp_path.iterdir()) == []
