"""Blocks of steps on a device: how long they take, and how often they wait for it; and the page with the tables."""

from __future__ import annotations

import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import timm
import torch

from kdengine import hookimpl

sys.path.insert(0, str(Path(__file__).parent))
from step import CLASSES, Enough, random_data

CALL = "synchronizing CUDA operation"
"""What torch says of an operation that waits for the device."""


@dataclass
class Bench:
    """What all measurements share.

    Attributes:
        device: ``cuda`` or ``cpu``.
        teacher: name of the teacher.
        student: name of the student.
        batch: images of a batch.
        warm_up: steps before those that are timed.
        steps: steps that are timed.
        lanes: how many lanes are trained together.
        precisions: those of the first table.
        ends: when to stop, by ``time.monotonic``; what is left is left out.
        lines: the page so far.
    """

    device: str
    teacher: str = "resnet32"
    student: str = "resnet8"
    batch: int = 128
    warm_up: int = 10
    steps: int = 60
    lanes: tuple[int, ...] = (1, 4, 8, 16)
    precisions: tuple[str, ...] = ("fp32", "bf16", "fp16")
    ends: float = float("inf")
    lines: list[str] = field(default_factory=list)

    def wait(self) -> None:
        """Wait for the device."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def say(self, line: str = "") -> None:
        """Add a line to the page, and print it."""
        self.lines.append(line)
        print(line, flush=True)

    def table(self, title: str, heads: list[str], rows: Iterator[list[str]]) -> None:
        """Add a table whose rows are measured one after the other, as long as there is time."""
        self.say(f"\n## {title}\n")
        self.say(f"| {' | '.join(heads)} |\n|{' --- |' * len(heads)}")
        while True:
            if time.monotonic() > self.ends:
                self.say("\nThe time was up before the rest of this table.")
                return
            row = next(rows, None)
            if row is None:
                return
            self.say(f"| {' | '.join(row)} |")

    def networks(self) -> tuple[torch.nn.Module, torch.nn.Module]:
        """Teacher and student, with fresh weights."""
        return tuple(timm.create_model(name, num_classes=CLASSES) for name in (self.teacher, self.student))

    def settings(self, **train: object) -> dict[str, object]:
        """Of a run that is as long as the measurement needs."""
        data = random_data(self.batch * (self.warm_up + self.steps + 2))
        return {"data": data, "epochs": 1, "batch_size": self.batch, "lr": 1e-4, "device": self.device, **train}


class Block:
    """Observer: seconds from the end of the warm-up to the last step, and how often the device was waited for in between.

    Args:
        bench: how many steps.
        lanes: steps that belong to one batch.
    """

    def __init__(self, bench: Bench, lanes: int = 1) -> None:
        self.bench = bench
        self.lanes = lanes
        self.calls = 0
        self.seconds = 0.0
        self.start = 0.0

    @hookimpl
    def kdengine_after_step(self) -> None:
        """Note when the block begins, and leave the run at its end."""
        self.calls += 1
        if self.calls == self.bench.warm_up * self.lanes:
            self.begin()
        elif self.calls == (self.bench.warm_up + self.bench.steps) * self.lanes:
            self.end()
            raise Enough

    def begin(self) -> None:
        """The block begins."""
        self.bench.wait()
        self.start = time.perf_counter()

    def end(self) -> None:
        """The block ends."""
        self.bench.wait()
        self.seconds = (time.perf_counter() - self.start) / self.bench.steps


class Waits(Block):
    """Observer: where the device is waited for, as torch reports it."""

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench)
        self.places: Counter[str] = Counter()

    def begin(self) -> None:
        """Have torch report every wait."""
        self._catch = warnings.catch_warnings(record=True)
        self._seen = self._catch.__enter__()
        warnings.simplefilter("always")
        if self.bench.device == "cuda":
            torch.cuda.set_sync_debug_mode("warn")

    def end(self) -> None:
        """Count them by the line that waited."""
        if self.bench.device == "cuda":
            torch.cuda.set_sync_debug_mode("default")
        waits = [warning for warning in self._seen if CALL in str(warning.message)]
        self.places.update(f"{Path(warning.filename).name}:{warning.lineno}" for warning in waits)
        self._catch.__exit__(None, None, None)
