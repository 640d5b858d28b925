"""Numbers of the first edition, made with commit 01e8bc4 and the command below, which every later change has to keep.

Without augmentation, whose draws have since come to depend on each image's position alone; without folding the teacher, which
rounds otherwise; and without `rkd`, whose sums are now taken in another order, a few images at a time: its own tests hold it to
the formula."""

import hashlib
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kdengine.training.runtime import Runtime

FIXTURE = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
MEASURED = ("lr", "loss", "terms", "train_top1", "test_top1", "test_top5", "test_loss")
COMMAND = (
    "compare --teacher resnet20 --student resnet8 --methods st,fitnet,ab,takd,dml --data digits@train=640@test=320 "
    "--epochs 2 -o teacher_train.epochs=1 -o train.precision=fp32 -o train.device=cpu -o train.batch_size=32 -o train.lr=0.02 "
    "-o train.augment=none -o train.fold_teacher=false"
)


def machine():
    """What decides in which order sums are taken, and so the last digits."""
    packages = {name: version(name) for name in ("torch", "timm")}
    cpu = {"capability": torch.backends.cpu.get_cpu_capability(), "device": Runtime("cpu", "fp32").describe()["device_name"]}
    return {**packages, **cpu}


def digest(folder):
    """Hashes of the final weights, and of everything measured in every epoch."""
    weights, tensors = hashlib.sha256(), load_file(folder / "student.safetensors")
    for name in sorted(tensors):
        weights.update(name.encode() + tensors[name].contiguous().numpy().tobytes())
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    kept = [{name: value for name, value in row.items() if name in MEASURED} for row in rows]
    metrics = hashlib.sha256(json.dumps(kept, sort_keys=True).encode())
    return {"weights": weights.hexdigest()[:24], "metrics": metrics.hexdigest()[:24]}


@pytest.mark.slow
def test_six_lanes_end_bit_for_bit_as_in_the_first_edition(tmp_path, monkeypatch):
    if machine() != FIXTURE["machine"]:
        pytest.skip(f"the hashes are of {FIXTURE['machine']}, here is {machine()}")
    monkeypatch.setenv("KDENGINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    command = [sys.executable, "-m", "kdengine", *COMMAND.split(), "--out", str(tmp_path / "comparison")]
    subprocess.run(command, check=True, capture_output=True)
    found = {lane: digest(tmp_path / "comparison" / "trial-1" / lane) for lane in FIXTURE["lanes"]}
    assert found == FIXTURE["lanes"]
