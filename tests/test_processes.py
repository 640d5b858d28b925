"""Several processes on one run, as ``torchrun`` starts them."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch

from kdengine.runs.whole_state import processes_of

RUN = "run --plugin fitnet --plugin st --teacher resnet8 --student resnet8 --data digits@train=250@test=64 --epochs 1 --out"


COMPARE = (
    "compare --methods st,fitnet --teacher resnet8 --student resnet8 --data digits@train=128@test=64 --epochs 1 --at-once 2"
)


def in_two_processes(command, where):
    """What ``torchrun`` prints."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "kdengine"]
    done = subprocess.run([*torchrun, *command.split()], cwd=where, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("processes")
    assert in_two_processes(f"{RUN} run", where).count("Run folder") == 1
    return where / "run"


@pytest.mark.slow
def test_two_processes_leave_one_run_folder_written_once(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["phase"] for row in rows] == ["hint", "joint"]
    assert json.loads((folder / "manifest.json").read_text())["processes"] == 2
    assert json.loads((folder / "result.json").read_text())["student"]["top1"] == rows[-1]["test_top1"]


@pytest.mark.slow
def test_two_processes_learn_what_one_learns_but_for_batch_statistics(folder, tmp_path):
    done = subprocess.run([sys.executable, "-m", "kdengine", *RUN.split(), "run"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    together, alone = (
        json.loads((where / "metrics.jsonl").read_text().splitlines()[0]) for where in (folder, tmp_path / "run")
    )
    assert together["terms"]["fitnet.hint"] == pytest.approx(alone["terms"]["fitnet.hint"], rel=0.1)
    assert together["terms"]["fitnet.hint"] != alone["terms"]["fitnet.hint"]


@pytest.mark.slow
def test_two_processes_compare_methods_and_one_of_them_tells(tmp_path):
    said = in_two_processes(f"{COMPARE} --epochs 1 --out both --json", tmp_path)
    found = json.loads(said)  # one object
    assert {row["method"]: row["failure"] for row in found["methods"]} == {"plain": "", "st": "", "fitnet": ""}
    for label in ("plain", "st", "fitnet"):
        assert json.loads((tmp_path / "both" / "trial-1" / label / "manifest.json").read_text())["processes"] == 2
    assert (tmp_path / "both" / "report.html").is_file()


@pytest.mark.slow
def test_two_processes_keep_their_shares_of_what_the_teacher_shows_and_read_them_again(tmp_path):
    data = "--data digits@train=128@test=64 --epochs 1 --teacher resnet8 --teacher-store store"
    said = json.loads(in_two_processes(f"teach {data} --json", tmp_path))
    kept = {file.relative_to(tmp_path): file.read_bytes() for file in (tmp_path / "store").rglob("epoch-*/*")}
    assert {path.parent.name for path in kept} == {f"epoch-0.view-0.process-{rank}-of-2" for rank in (0, 1)}
    assert said["batches"] == 1
    in_two_processes(f"run --plugin st --student resnet8 {data} --out run", tmp_path)
    assert all((tmp_path / path).read_bytes() == content for path, content in kept.items())
    alone = [sys.executable, "-m", "kdengine", "run", "--plugin", "st", "--student", "resnet8", *data.split()]
    refused = subprocess.run(alone, cwd=tmp_path, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "under processes = 2; this run has processes = 1" in refused.stderr


# interruptions, under srun: nobody passes signals on, and nobody ends the other processes -----------------------------

UNEVEN = [
    *(
        "run",
        "--plugin",
        "st",
        "--plugin",
        "rkd",
        "--teacher",
        "resnet8",
        "--student",
        "resnet8@drop_rate=0.3",
        "--epochs",
        "4",
    ),
    *("--teacher-epochs", "1", "--data", "digits@train=101@test=70", "--device", "cpu", "--batch-size", "11"),
    *("-o", "train.drop_last=false", "-o", "train.precision=fp32", "-o", "train.ema=0.9", "-o", "train.accumulate=2"),
    *("-o", "train.save_minutes=0.0001"),
]
"""Batches that two processes cannot halve, and a save after every step."""
ENDS = 120
"""Seconds after which a process that has not ended never will."""


class Tasks:
    """Two tasks of a Slurm step on this machine."""

    def __init__(self, arguments, where):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        step = {"SLURM_JOB_ID": "1", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "2", "SLURM_NNODES": "1", "MASTER_PORT": port}
        self.tasks = [
            subprocess.Popen(
                [sys.executable, "-m", "kdengine", *arguments],
                cwd=where,
                env={**os.environ, **step, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank in range(2)
        ]

    def wait(self):
        """Exit codes, and what both have said."""
        said = [task.communicate(timeout=ENDS)[0] for task in self.tasks]
        return [task.returncode for task in self.tasks], said

    def wait_for_state(self, folder, epochs):
        """Until a state within an epoch is saved after so many epochs."""
        file, end = folder / "state" / "lane.pt", time.monotonic() + ENDS
        while time.monotonic() < end and all(task.poll() is None for task in self.tasks):
            state = torch.load(file, weights_only=True) if file.exists() else None
            if state and len(state["history"]) >= epochs and state["meter"]["steps"]:
                return
            time.sleep(0.02)
        raise AssertionError([task.communicate()[0] for task in self.tasks if task.poll() is not None])


def saved(folder):
    """Epochs and steps of a state, and of how many processes it is."""
    state = torch.load(folder / "state" / "lane.pt", weights_only=True)
    return len(state["history"]), state["meter"]["steps"], processes_of(state)


def rows(folder):
    return [
        {name: value for name, value in json.loads(line).items() if name not in ("seconds", "images_per_second")}
        for line in (folder / "metrics.jsonl").read_text().splitlines()
    ]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    where = tmp_path_factory.mktemp("undisturbed")
    codes, said = Tasks([*UNEVEN, "--out", "run"], where).wait()
    assert codes == [0, 0], said
    return where / "run"


@pytest.mark.slow
def test_a_run_of_two_that_is_asked_to_stop_and_then_killed_ends_as_if_nothing_had_happened(undisturbed, tmp_path):
    run, resume = tmp_path / "run", ["run", "--resume", "run"]
    tasks = Tasks([*UNEVEN, "--out", "run"], tmp_path)
    tasks.wait_for_state(run, 0)
    tasks.tasks[1].send_signal(signal.SIGTERM)
    codes, said = tasks.wait()
    assert codes == [130, 130], said
    epochs, steps, processes = saved(run)
    assert processes == 2
    assert "To resume: srun --ntasks 2 kdengine run --resume run" in " ".join(said[0].split())
    assert "Traceback" not in "".join(said)

    tasks = Tasks(resume, tmp_path)
    tasks.wait_for_state(run, epochs + 1)
    tasks.tasks[0].kill()
    codes, said = tasks.wait()
    assert codes == [-signal.SIGKILL, 2], "who is left must not wait forever"
    assert "Another process of this run has ended" in said[1]
    assert "Traceback" not in said[1]
    assert saved(run) > (epochs, steps, 2)

    codes, said = Tasks(resume, tmp_path).wait()
    assert codes == [0, 0], said
    assert rows(run) == rows(undisturbed)
    for file in undisturbed.glob("*.safetensors"):
        assert (run / file.name).read_bytes() == file.read_bytes(), file.name
