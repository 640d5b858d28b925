"""Measures what a comparison saves: eight methods side by side, the same eight alone, and eight plain fp32 loops.

    python benchmarks/compare.py

A step of the comparison is one batch for all lanes: loading it, one forward of the teacher, and every lane's own step.
The plain student, which every comparison trains too, is not one of the eight: its own seconds are left out. After every
batch, and after every step of a method alone, the plain loop of benchmarks/step.py takes a step. All ratios are between
neighbours in time, so that a machine that becomes slower or faster changes none of them.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import timm
import torch

from kdengine import Comparison, hookimpl
from kdengine.training.runtime import Runtime

sys.path.insert(0, str(Path(__file__).parent))
from step import BATCH, CLASSES, WARM_UP, Alternation, Enough, PlainLoop, hush, measure, options_of, random_data

METHODS = {name: [name] for name in ("st", "at", "nst", "sp", "rkd", "mbd-soft", "mbd-hard", "fitnet")}
TEACHER, STUDENT = "resnet32", "resnet8"


class AlternationOfLanes(Alternation):
    """The same for a comparison: after each batch of all lanes, a step of the plain loop."""

    calls, student_seconds = 0, 0.0

    @hookimpl
    def kdengine_after_step(self, run: Any) -> None:
        """Note what the plain student took; after the last lane, what all others did."""
        if not run.lane.module.methods:
            before, self.student_seconds = self.student_seconds, run.lane.meter.busy
            self.mark += self.student_seconds - before
        self.calls += 1
        if self.calls % (1 + len(METHODS)) == 0:
            super().kdengine_after_step(run)


def together(steps: int, precision: str) -> float:
    """Seconds of a batch in the eight lanes of a comparison, as a share of eight steps of the plain loop."""
    watch = AlternationOfLanes(PlainLoop(TEACHER, STUDENT), steps + WARM_UP)
    networks = (timm.create_model(name, num_classes=CLASSES) for name in (TEACHER, STUDENT))
    options = {name: given for method in METHODS for name, given in options_of(method).items()}
    settings = {"epochs": 1, "batch_size": BATCH, "precision": precision, "options": options, "observers": [watch]}
    with tempfile.TemporaryDirectory() as folder, suppress(Enough):
        data = random_data(BATCH * (steps + WARM_UP + 1))
        Comparison(*networks, METHODS, data=data, out=f"{folder}/run", **settings).fit()
    mine, theirs = (statistics.median(seconds[WARM_UP:]) for seconds in (watch.mine, watch.theirs))
    return mine / (len(METHODS) * theirs)


def alone(steps: int, precision: str) -> float:
    """Seconds of the summed steps of the same methods alone, as a share of eight steps of the plain loop."""
    pairs = [measure(method, TEACHER, STUDENT, steps, precision=precision) for method in METHODS]
    return statistics.fmean(mine / theirs for mine, theirs in pairs)


def main() -> None:
    """Print the table."""
    hush()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3, help="number of measurements; medians are printed")
    arguments = parser.parse_args()
    facts = Runtime().describe()
    print(f"resnet32 -> resnet8, batch {BATCH} of [3, 32, 32], {CLASSES} classes: {', '.join(METHODS)}")
    print(f"{facts['device_name']}, {facts['threads']} threads, torch {torch.__version__}, auto = {facts['precision']},")
    print(f"{arguments.rounds} rounds of {arguments.steps} steps\n")
    print("| precision | together / eight plain loops | alone / eight plain loops | together / alone |\n|" + " --- |" * 4)
    for precision in ("auto", "fp32"):
        rounds = [(together(arguments.steps, precision), alone(arguments.steps, precision)) for _ in range(arguments.rounds)]
        side_by_side, apart = (statistics.median(column) for column in zip(*rounds, strict=True))
        print(f"| {precision} | {side_by_side:.2f} | {apart:.2f} | {side_by_side / apart:.2f} |", flush=True)


if __name__ == "__main__":
    import kdzoo

    main()
