"""Kills runs at random moments, resumes them, and checks that they end like uninterrupted runs.

    python benchmarks/kills.py --out docs/results/kills.md

A run, a comparison, a sweep and a chain of networks are killed with SIGKILL, at moments spread over their whole length, and
resumed until they end. After every kill the folder must be readable. At the end all weights, and every number of every row
except times must be those of an uninterrupted run, bit for bit.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from kdengine.report.pastrun import find_runs
from kdengine.training.runtime import Runtime

DATA = ["--data", "digits@train=512@test=256", "--seed", "3", "-o", "train.precision=fp32", "-o", "train.save_minutes=0.005"]
STUDENT = "timm:test_vit@drop_rate=0.1@img_size=32"
OPTIONS = {
    "augment": "resized-crop+rand-augment",
    "color_jitter": 0.2,
    "erase": 0.25,
    "mixup": 0.2,
    "cutmix": 1.0,
    "balanced_sampling": "true",
    "class_weights": "balanced",
    "ema": 0.99,
    "accumulate": 3,
    "layer_decay": 0.8,
    "decay_norms_and_biases": "false",
    "head_lr": 2.0,
    "freeze": "patch_embed",
    "patience": 5,
}
"""Options of training that each change what is computed; all of them at once."""
COMMANDS = {
    "run": ["run", "--plugin", "rkd", "--student", STUDENT, "--epochs", "6"],
    "options": [
        *("run", "--plugin", "st", "--student", STUDENT, "--epochs", "4"),
        *(part for name, value in OPTIONS.items() for part in ("-o", f"train.{name}={value}")),
    ],
    "chain": ["run", "--plugin", "takd", "--plugin", "fitnet", "--plugin", "st", "--student", "resnet8", "--epochs", "3"],
    "compare": ["compare", "--methods", "st,fitnet,dml", "--trials", "2", "--student", STUDENT, "--epochs", "3"],
    "sweep": ["sweep", "--plugin", "st", "--grid", "st.alpha=0.1,0.9", "--grid", "train.lr=0.1,0.01", "--student", "resnet8"],
}
TIMES = ("seconds", "images_per_second")


def main() -> None:
    """Kill, resume, compare, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="a Markdown file; nothing is written without it")
    parser.add_argument("--kills", type=int, default=40, help="in all")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--work", type=Path, default=Path("runs/kills"), help="folder for the runs; emptied first")
    arguments = parser.parse_args()
    shutil.rmtree(arguments.work, ignore_errors=True)
    arguments.work.mkdir(parents=True)
    teacher = arguments.work / "teacher"
    call(["train", "--model", "resnet20", "--epochs", "2", *DATA, "--out", str(teacher)])
    moments = random.Random(arguments.seed)
    rows = []
    for name, command in COMMANDS.items():
        line = [*command, "--teacher", "resnet20", "--teacher-weights", str(teacher), *DATA]
        line += ["--epochs", "3"] if name == "sweep" else []
        rows.append(tried(name, line, arguments.kills // len(COMMANDS), moments, arguments.work / name))
        print(rows[-1], flush=True)
    if arguments.out:
        arguments.out.write_text(page(rows, arguments.seed), encoding="utf-8")


def tried(name: str, command: list[str], kills: int, moments: random.Random, work: Path) -> dict[str, Any]:
    """One command, killed the given number of times; a run that ends too early is started again."""
    start = time.perf_counter()
    call([*command, "--out", str(work / "uninterrupted")])
    length = time.perf_counter() - start
    done, attempts = 0, 0
    where: list[float] = []
    while done < kills:
        attempts += 1
        folder = work / f"killed-{attempts}"
        while not ended(folder) and done < kills:
            moment = moments.uniform(0, length)
            if kill(start_or_resume(name, command, folder), moment):
                done += 1
                where.append(moment)
                check_readable(folder)
        if not ended(folder):
            call(start_or_resume(name, command, folder))
        check_equal(work / "uninterrupted", folder)
    return {"name": name, "command": command, "seconds": length, "kills": done, "runs": attempts}


def start_or_resume(name: str, command: list[str], folder: Path) -> list[str]:
    """The command that starts or resumes a run."""
    begun = (folder / "run.toml").exists() or (folder / "comparison.json").exists()
    return [command[0], "--resume", str(folder)] if begun else [*command, "--out", str(folder)]


def ended(folder: Path) -> bool:
    """Whether the run in a folder has finished."""
    if (folder / "run.toml").exists():
        return (folder / "result.json").exists()
    return (folder / "comparison.json").exists() and not (folder / "state").exists()


def call(arguments: list[str]) -> None:
    """Run a command that must succeed."""
    subprocess.run([sys.executable, "-m", "kdengine", *arguments], check=True, capture_output=True, env=environment())


def kill(arguments: list[str], after: float) -> bool:
    """Start a command and kill it after the given seconds; return whether it was still running."""
    process = subprocess.Popen(
        [sys.executable, "-m", "kdengine", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment()
    )
    try:
        _, errors = process.communicate(timeout=after)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return True
    if process.returncode != 0:
        raise SystemExit(f"{arguments} ended with {process.returncode}: {errors.decode()}")
    return False


def environment() -> dict[str, str]:
    """One thread, so that the order of sums does not depend on how busy the machine is."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def check_readable(folder: Path) -> None:
    """Check that every file of a killed run is readable and its rows are complete."""
    if any(folder.rglob("run.toml")):
        for run in find_runs([folder]):
            assert all({"epoch", "loss"} <= set(row) for row in run.rows)
    for file in folder.rglob("*.pt"):
        torch.load(file, weights_only=True)


def check_equal(uninterrupted: Path, killed: Path) -> None:
    """Check that weights are equal byte for byte, and rows and results number for number."""
    files = {file.relative_to(uninterrupted) for file in uninterrupted.rglob("*.safetensors")}
    assert files, f"{uninterrupted} holds no weights"
    assert files == {file.relative_to(killed) for file in killed.rglob("*.safetensors")}
    for file in files:
        assert (uninterrupted / file).read_bytes() == (killed / file).read_bytes(), f"{killed / file} differs"
    for file in uninterrupted.rglob("metrics.jsonl"):
        assert list(numbers(file)) == list(numbers(killed / file.relative_to(uninterrupted))), f"{file} differs"
    for file in uninterrupted.rglob("result.json"):
        assert student(file) == student(killed / file.relative_to(uninterrupted)), f"{file} differs"


def numbers(file: Path) -> Iterator[dict[str, object]]:
    """The rows of ``metrics.jsonl`` without times."""
    for line in file.read_text(encoding="utf-8").splitlines():
        yield {key: value for key, value in json.loads(line).items() if key not in TIMES}


def student(file: Path) -> dict[str, object]:
    """The student's entry of a result, without times."""
    entry = json.loads(file.read_text(encoding="utf-8"))["student"]
    return {key: value for key, value in entry.items() if key not in TIMES}


def page(rows: list[dict[str, Any]], seed: int) -> str:
    """The document."""
    machine = Runtime("cpu").describe()
    kills = sum(row["kills"] for row in rows)
    lines = [
        "# Kills",
        "",
        f"{kills} kills (`kill -9`) at random moments, seed {seed}: every folder was readable after every kill, and "
        "every resumed run ended with the weights of an uninterrupted one, byte for byte, and with all its numbers.",
        "",
        "```console",
        "$ python benchmarks/kills.py --out docs/results/kills.md",
        "```",
        "",
        f"{machine['device_name']}, 1 thread, fp32, torch {torch.__version__}, Python {platform.python_version()}. The teacher "
        "is a `resnet20`; states are saved every 0.3 s.",
        "",
        "| command | seconds uninterrupted | kills | spread over |",
        "| --- | --- | --- | --- |",
    ]
    for row in rows:
        shown = " ".join("TEACHER" if str(part).endswith("/teacher") else str(part) for part in row["command"])
        lines.append(f"| `{shown}` | {row['seconds']:.0f} | {row['kills']} | {row['runs']} runs |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
