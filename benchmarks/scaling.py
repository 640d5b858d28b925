"""Measures what several local workers are worth, and what a unit of work costs beside its training.

    python benchmarks/scaling.py

Trials of one small comparison are units; each worker has one thread. The first unit of every worker, which waits until torch
is imported, is left out of both figures. Throughput is the number of the other units that end per second. The overhead of a
unit is how much longer it takes than the same trial of a comparison without a launcher, in a process that has trained one
before. Run it on a machine with nothing else to do.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from kdengine import Comparison, Outcome, hookimpl
from kdengine.launchers.local import LocalLauncher
from kdengine.training.runtime import Runtime

GOAL, OVERHEAD = 1.7, 5.0
"""What two workers on two cores should reach, and the seconds that a unit after the first one may cost."""


class Timed(LocalLauncher):
    """Remembers when each unit ended."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.ends: list[float] = []

    def wait(self, seconds: float) -> Sequence[Outcome]:
        outcomes = super().wait(seconds)
        for outcome in outcomes:
            assert outcome.kind == "done", outcome
            self.ends.append(time.perf_counter())
        return outcomes


class Clock:
    """Remembers when the first lane of each trial began."""

    def __init__(self) -> None:
        self.begins: dict[str, float] = {}

    @hookimpl
    def kdengine_before_fit(self, run: Any) -> None:
        self.begins.setdefault(str(run.folder.path.parent), time.perf_counter())


def comparison(folder: Path, trials: int, args: argparse.Namespace, **tools: Any) -> Comparison:
    """The comparison, whose teacher is in the cache after the first time."""
    train = {"precision": "fp32", "device": "cpu", "epochs": args.epochs, "teacher_train": {"epochs": 1}}
    return Comparison("resnet14", "resnet8", ["st"], args.data, trials=trials, out=folder, **train, **tools)


def alone(folder: Path, args: argparse.Namespace) -> float:
    """Median seconds of a trial after the first one, without a launcher."""
    clock = Clock()
    comparison(folder / "teacher", 1, args).fit()
    comparison(folder / "alone", args.units + 1, args, observers=[clock]).fit()
    begins = [clock.begins[str(folder / "alone" / f"trial-{number}")] for number in range(1, args.units + 2)]
    return statistics.median(after - before for before, after in pairwise(begins[1:]))


def launched(folder: Path, workers: int, args: argparse.Namespace) -> tuple[float, float]:
    """Units per second, and median seconds of a unit, without the first one of each worker."""
    launcher = Timed(workers=workers, threads=1, lanes=2)
    comparison(folder / f"{workers}", workers * args.units, args).fit(on=launcher)
    warm, last = launcher.ends[workers - 1], launcher.ends[-1]
    count = len(launcher.ends) - workers
    return count / (last - warm), workers * (last - warm) / count


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--units", type=int, default=4, help="units for each worker")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    machine = Runtime("cpu", "fp32").describe()
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("kdengine", "torch", "timm"))
    print(f"{machine['device_name']}, {os.cpu_count()} cores, one thread for each worker, {machine['precision']}")
    print(f"Python {platform.python_version()}, {versions}")
    options = " ".join(f"--{name} {value}" for name, value in vars(args).items())
    print(f"`python benchmarks/scaling.py {options}`\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["KDENGINE_CACHE"] = str(folder / "cache")
        trial = alone(folder, args)
        one, each = launched(folder, 1, args)
        several, _ = launched(folder, args.workers, args)
    print("| | measured | goal |\n|---|--:|--:|")
    print(f"| seconds of a trial without a launcher | {trial:.2f} | |")
    print(f"| seconds of a unit after the first, one worker | {each:.2f} | |")
    print(f"| overhead of a unit, seconds | {each - trial:.2f} | < {OVERHEAD:g} |")
    print(f"| units per second, 1 worker | {one:.4f} | |")
    print(f"| units per second, {args.workers} workers | {several:.4f} | |")
    goal = f"{GOAL:g}" if args.workers == 2 else ""
    print(f"| {args.workers} workers against one | {several / one:.2f} | {goal} |", flush=True)


if __name__ == "__main__":
    main()
