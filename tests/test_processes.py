"""Several processes on one run, as ``torchrun`` starts them."""

import json
import subprocess
import sys

import pytest

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
