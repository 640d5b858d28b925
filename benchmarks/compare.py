"""Measures what a comparison saves: eight methods side by side, the same eight alone, and eight plain fp32 loops.

    python benchmarks/compare.py

A step of the comparison is one batch for all lanes: loading it, one forward of the teacher, and every lane's own step. It is
compared with the summed steps of the eight runs alone in the same precision, and with eight steps of the plain loop of
benchmarks/step.py, in sequence on the same machine.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import timm
import torch

from kdengine import Comparison, Engine, hookimpl
from kdengine.training.runtime import Runtime

sys.path.insert(0, str(Path(__file__).parent))
from step import BATCH, CLASSES, PlainLoop, hush, random_data

WARM_UP = 3
METHODS = {name: [name] for name in ("st", "at", "nst", "sp", "rkd", "mbd-soft", "mbd-hard")} | {"fitnet": ["fitnet"]}
OPTIONS = {"fitnet": {"mode": "joint"}}


class Clock:
    """Observer: seconds of every batch, from one to the next, over all lanes."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        self.calls = 0
        self.marks: list[float] = []

    @hookimpl
    def kdengine_after_step(self) -> None:
        """Note the time after the last lane's step."""
        self.calls += 1
        if self.calls % self.lanes == 0:
            self.marks.append(time.perf_counter())

    @property
    def seconds(self) -> float:
        """Median of the batches after the warm-up."""
        return statistics.median(b - a for a, b in zip(self.marks[WARM_UP:], self.marks[WARM_UP + 1 :], strict=False))


def together(steps: int, precision: str) -> float:
    """Seconds of a batch of the comparison, the plain student among the lanes."""
    clock = Clock(len(METHODS) + 1)
    with tempfile.TemporaryDirectory() as folder:
        Comparison(*networks(), METHODS, observers=[clock], **settings(steps, precision, folder)).fit()
    return clock.seconds


def alone(method: str | None, steps: int, precision: str) -> float:
    """Seconds of a step of one method by itself."""
    clock = Clock(1)
    teacher, student = networks()
    with tempfile.TemporaryDirectory() as folder:
        given = settings(steps, precision, folder) | {"options": {method: OPTIONS[method]} if method in OPTIONS else {}}
        Engine(teacher if method else None, student, [method] if method else [], observers=[clock], **given).fit()
    return clock.seconds


def networks() -> tuple[torch.nn.Module, torch.nn.Module]:
    """Teacher and student, with fresh weights."""
    return timm.create_model("resnet32", num_classes=CLASSES), timm.create_model("resnet8", num_classes=CLASSES)


def settings(steps: int, precision: str, folder: str) -> dict[str, object]:
    """What all of them are trained with."""
    data = random_data(BATCH * (steps + WARM_UP + 1))
    shared = {"epochs": 1, "batch_size": BATCH, "precision": precision, "options": OPTIONS}
    return {"data": data, "out": f"{folder}/run", **shared}


def plain(steps: int) -> float:
    """Seconds of a step of the plain loop."""
    loop = PlainLoop("resnet32", "resnet8")
    return statistics.median([loop.step() for _ in range(steps + WARM_UP)][WARM_UP:])


def measured(steps: int, precision: str) -> tuple[float, float, float]:
    """Seconds of a batch: of the eight lanes together, of the same alone, and of eight plain loops."""
    lanes = together(steps, precision) - alone(None, steps, precision)  # the plain student is not one of the eight
    apart = sum(alone(method, steps, precision) for method in METHODS)
    return lanes, apart, len(METHODS) * plain(steps)


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
    print("| precision | together, s | alone, sum, s | ratio | eight plain fp32 loops, s | ratio |\n|" + " --- |" * 6)
    for precision in ("auto", "fp32"):
        rounds = [measured(arguments.steps, precision) for _ in range(arguments.rounds)]
        lanes, apart, loops = (statistics.median(column) for column in zip(*rounds, strict=True))
        ratios = [statistics.median(row[0] / row[place] for row in rounds) for place in (1, 2)]
        print(f"| {precision} | {lanes:.2f} | {apart:.2f} | {ratios[0]:.2f} | {loops:.2f} | {ratios[1]:.2f} |", flush=True)


if __name__ == "__main__":
    import kdzoo

    main()
