"""Measures what the engine costs beside a bare loop that does the same work with the same tricks, for one lane and for eight.

    python benchmarks/overhead.py                 one lane (st) and eight, resnet32 -> resnet8
    python benchmarks/overhead.py --pair tiny     networks so small that nearly everything is overhead

The bare loop is written by hand: the teacher once a batch without gradients, and for every lane the student's forward, the
losses, the backward pass and the optimizer. It has what makes kdengine fast: the precision, channels_last, the folded teacher,
hooks that stay where they are, the very loss code of the methods, the same batches from memory, the same kind of optimizer. It
has nothing else: no check for finite values, no metrics, no random state of each lane's own, no observers, no schedule.

Both take turns on every batch. The engine's time is all that passes from handing a batch to the trainer until it asks for the
next one; making the batch is not counted on either side. Networks are made anew in each round, because where they lie in memory
matters more than the engine. Printed are medians over all batches of all rounds, of the overhead that of each batch.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from kdengine import Registry, Step, Trace
from kdengine.config.settings import Settings
from kdengine.data.batches import Batch
from kdengine.plugins.selection import choose_distillers
from kdengine.runs.session import Session
from kdengine.runs.start import Fresh, enter
from kdengine.runs.train import train_all
from kdengine.storage.runfolder import RunFolder
from kdengine.taps.anatomy import TapPoint
from kdengine.testing import tiny_pair
from kdengine.training.folding import Folding
from kdengine.training.lane import Lane
from kdengine.training.runtime import HALVES, Runtime

sys.path.insert(0, str(Path(__file__).parent))
from compare import METHODS
from step import CLASSES, OPTIONS, random_data

WARM_UP = 3
WEIGHT = 1e-3
"""Weight of every method's terms, so that none explodes beside an untrained teacher; the work is the same."""
SIZES = {"resnet": (128, 6, 15), "tiny": (8, 200, 3)}
"""Of each pair of networks: images in a batch, steps in a round, rounds."""


class Observed:
    """A network with hooks at its taps that are never removed.

    Args:
        network: the network.
        points: name -> point to record.
    """

    def __init__(self, network: nn.Module, points: Mapping[str, TapPoint]) -> None:
        self.network = network
        self.points = points
        self.seen: dict[str, Tensor] = {}
        for name, point in points.items():
            if point.path:
                module = network.get_submodule(point.path)
                hook = partial(self._keep, name, point.overwritten)
                if point.side == "in":
                    module.register_forward_pre_hook(hook)
                else:
                    module.register_forward_hook(hook)

    def __call__(self, x: Tensor, dtype: torch.dtype | None) -> Trace:
        """Run the network in a precision."""
        with torch.autocast(x.device.type, dtype=dtype, enabled=dtype is not None):
            logits = self.network(x).float()
        seen = {n: p.layout.apply(self.seen[n].float() if p.path else logits) for n, p in self.points.items()}
        self.seen = {}
        return Trace(seen, logits, inputs=x)

    def _keep(self, name: str, clone: bool, _: nn.Module, inputs: Any, output: Any = None) -> None:
        value = inputs[0] if output is None else output
        self.seen[name] = value.clone() if clone else value


class BareLane:
    """What a lane does for its student, written by hand.

    Args:
        lane: the lane to imitate, before its first step.
    """

    def __init__(self, lane: Lane) -> None:
        self.phase = lane.phase
        module = copy.deepcopy(lane.module)
        self.methods, self.task = module.methods, module.task
        self.student = Observed(module.student.train(), self.phase.student_points)
        chosen = lane.settings.concrete
        options: dict[str, Any] = {
            "momentum": chosen.momentum,
            "nesterov": chosen.nesterov,
            "weight_decay": chosen.weight_decay,
        }
        self.optimizer = torch.optim.SGD(module.parameters(), chosen.lr, **options, foreach=True)

    def step(self, batch: Batch, taught: Trace, dtype: torch.dtype | None) -> None:
        """One update."""
        mine = self.student(batch.x, dtype)
        hard = self.task.loss(mine.logits, batch.y)
        assert hard is not None
        loss = self.phase.task_weight * hard
        for key, binding in self.phase.bindings.items():
            step = Step(batch.x, batch.y, batch.index, mine, taught, names=binding.names, rectified=binding.rectified)
            method = self.methods[key]
            for value in method(step).values():
                loss = loss + method.options.weight * value
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


class BareLoop:
    """All lanes of a run, written by hand.

    Args:
        lanes: the lanes to imitate, before their first step.
        teacher: their teacher.
        precision: of the run.
        images: of a batch, [B, C, H, W].
    """

    def __init__(self, lanes: list[Lane], teacher: nn.Module, precision: str, images: Tensor) -> None:
        self.lanes = [BareLane(lane) for lane in lanes]
        points = {name: point for lane in lanes for name, point in lane.phase.teacher_points().items()}
        self.dtype = HALVES.get(precision)
        folding = Folding.of(teacher, images, self.dtype)
        self.teacher = Observed(copy.deepcopy(teacher) if folding is None else folding.network, points)

    def step(self, batch: Batch) -> float:
        """Seconds that a batch takes."""
        start = time.perf_counter()
        with torch.no_grad():
            taught = self.teacher(batch.x, self.dtype)
        for lane in self.lanes:
            lane.step(batch, taught, self.dtype)
        return time.perf_counter() - start


class Enough(Exception):
    """All steps were timed."""


@dataclass
class Alternating:
    """Training batches from memory that time what is done with them, and let the bare loop take its turn in between."""

    batches: list[Batch]
    steps: int
    bare: BareLoop | None = None

    def __post_init__(self) -> None:
        self.engine_seconds: list[float] = []
        self.bare_seconds: list[float] = []

    def __len__(self) -> int:
        return self.steps + 1

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """The batches, over and over."""
        assert self.bare is not None
        for batch in itertools.islice(itertools.cycle(self.batches), self.steps):
            begun = time.perf_counter()
            yield batch
            self.engine_seconds.append(time.perf_counter() - begun)
            self.bare_seconds.append(self.bare.step(batch))
        raise Enough

    @property
    def pairs(self) -> list[tuple[float, float]]:
        """Seconds of the engine's step and of the bare one on the same batch, after the warm-up."""
        return list(zip(self.engine_seconds, self.bare_seconds, strict=True))[WARM_UP:]


def networks(pair: str) -> tuple[nn.Module, nn.Module]:
    """Teacher and student, with fresh weights."""
    if pair == "tiny":
        return tiny_pair(CLASSES)
    return timm.create_model("resnet32", num_classes=CLASSES), timm.create_model("resnet8", num_classes=CLASSES)


def measured(methods: Mapping[str, list[str]], pair: str, precision: str, batch: int, steps: int) -> list[tuple[float, float]]:
    """Seconds of each batch in all lanes: of the engine and of the bare loop."""
    teacher, student = networks(pair)
    registry = Registry()
    train = {"batch_size": batch, "precision": precision, "epochs": 1}
    settings = Settings.checked({"teacher": "module:teacher", "student": "module:student", "train": train})
    modules = {"teacher": teacher, "student": student}
    session = Session.open(settings, registry, modules=modules, data=random_data(8 * batch), alone=True)
    made = [replace(item, x=session.runtime.layout(item.x)) for item in session.data.train.epoch(0)]
    source = Alternating(made, steps + WARM_UP)
    session = replace(session, data=replace(session.data, train=source))
    with tempfile.TemporaryDirectory() as folder, suppress(Enough):
        runs = []
        for label, names in methods.items():
            options = {name: {"weight": WEIGHT, **OPTIONS.get(name, {})} for name in names}
            lane = session.lane(label, session.twin(), choose_distillers(names, options, registry))
            runs.append(session.run(settings, lane, RunFolder(Path(folder) / label)))
            enter(runs[-1], Fresh(), {})
        teacher = session.teachers[0].frozen.model
        source.bare = BareLoop([run.lane for run in runs], teacher, session.runtime.precision, made[0].x)
        train_all(runs, session.data, {})
    return source.pairs


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pair", choices=[*SIZES], default="resnet")
    parser.add_argument("--precisions", default="auto,fp32")
    parser.add_argument("--steps", type=int, help="steps in a round")
    parser.add_argument("--rounds", type=int)
    arguments = parser.parse_args()
    batch, steps, rounds = SIZES[arguments.pair]
    steps, rounds = arguments.steps or steps, arguments.rounds or rounds
    facts = Runtime().describe()
    names = "resnet32 -> resnet8" if arguments.pair == "resnet" else "tiny pair of kdengine.testing"
    print(f"{names}, batch {batch} of [3, 32, 32], {CLASSES} classes; eight lanes: {', '.join(METHODS)}")
    print(f"{facts['device_name']}, {facts['threads']} threads, torch {torch.__version__}, auto = {facts['precision']},")
    print(f"{rounds} rounds of {steps} steps\n")
    print("| lanes | precision | kdengine, ms | bare loop, ms | overhead a lane, us | overhead a lane |\n|" + " --- |" * 6)
    for methods in ({"st": ["st"]}, METHODS):
        for precision in arguments.precisions.split(","):
            results = [pair for _ in range(rounds) for pair in measured(methods, arguments.pair, precision, batch, steps)]
            mine, bare = (statistics.median(column) for column in zip(*results, strict=True))
            extra = statistics.median(engine - loop for engine, loop in results) / len(methods)
            share = statistics.median(engine / loop - 1 for engine, loop in results)
            row = f"{1e3 * mine:.2f} | {1e3 * bare:.2f} | {1e6 * extra:.0f} | {100 * share:.1f} %"
            print(f"| {len(methods)} | {precision} | {row} |", flush=True)


if __name__ == "__main__":
    import kdzoo

    main()
