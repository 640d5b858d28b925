"""Times a whole training step, as a ratio to a hand-written plain fp32 loop that alternates with it.

    make bench        or: python benchmarks/step.py --methods st,rkd --steps 30

The plain loop is that of a paper's code: fp32, NCHW, teacher under no_grad, soft targets, SGD with momentum, and its batch
already in memory. kdengine's step is all that a run does for a batch: loading and augmenting it, the teacher, the student, the
losses, the update, the bookkeeping. Of a method that trains in phases, the steps count that have the task's loss. A method that
keeps something for each image (crd) has as many images as CIFAR-100.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
from contextlib import suppress

import timm
import torch
import torch.nn.functional as F

from kdengine import Distiller, Engine, Registry, hookimpl
from kdengine.data.dataset import Data, Split
from kdengine.plugins.groups import expanded
from kdengine.training.runtime import Runtime

BATCH, CLASSES, IMAGES = 128, 100, 50_000
WARM_UP = 3
OPTIONS = {"fitnet": {"mode": "joint"}}
"""What some methods need to be timed: one phase."""
WEIGHT = 1e-6
"""Weight of every method's terms, so that none explodes beside an untrained teacher; the work is the same."""


class PlainLoop:
    """The training loop of a typical paper."""

    def __init__(self, teacher: str, student: str) -> None:
        self.teacher = timm.create_model(teacher, num_classes=CLASSES).eval()
        self.student = timm.create_model(student, num_classes=CLASSES)
        self.optimizer = torch.optim.SGD(self.student.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
        self.x = torch.randn(BATCH, 3, 32, 32)
        self.y = torch.randint(0, CLASSES, (BATCH,))

    def step(self) -> float:
        """Seconds that one step takes."""
        start = time.perf_counter()
        with torch.no_grad():
            wanted = self.teacher(self.x)
        logits = self.student(self.x)
        soft = F.kl_div(F.log_softmax(logits / 4, 1), F.softmax(wanted / 4, 1), reduction="batchmean") * 16
        loss = 0.1 * F.cross_entropy(logits, self.y) + 0.9 * soft
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return time.perf_counter() - start


def hush() -> None:
    """Leave out the remark of every run that what learns from noise is near chance."""
    logging.getLogger("kdengine").setLevel(logging.ERROR)


class Enough(Exception):
    """All steps were timed."""


class Alternation:
    """Observer: after each step of kdengine, one of the plain loop; both are timed.

    Args:
        plain: the plain loop.
        steps: steps to time before the run is left.
    """

    def __init__(self, plain: PlainLoop, steps: int) -> None:
        self.plain = plain
        self.steps = steps
        self.mine: list[float] = []
        self.theirs: list[float] = []
        self.mark = 0.0

    @hookimpl
    def kdengine_before_fit(self, run) -> None:
        self.mark = time.perf_counter()

    @hookimpl
    def kdengine_after_step(self, run) -> None:
        took = time.perf_counter() - self.mark
        if run.lane.phase.name == "joint":
            self.mine.append(took)
            self.theirs.append(self.plain.step())
        if len(self.mine) == self.steps:
            raise Enough
        self.mark = time.perf_counter()


def random_data(count: int) -> Data:
    """So many images of noise in the size of CIFAR."""
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)
    labels = torch.randint(0, CLASSES, (len(images),))
    split = Split(labels, images)
    few = Split(labels[:BATCH], images[:BATCH])
    names = tuple(map(str, range(CLASSES)))
    return Data("noise", names, (3, 32, 32), (0.5,) * 3, (0.25,) * 3, "crop-flip", split, few, fingerprint="noise")


def images_for(method: str | None, steps: int) -> int:
    """As many images as the steps need, or as CIFAR-100 has if the method keeps something for each of them."""
    keeps = method is not None and any("index" in kind.needs for kind in Registry().methods(method))
    return max(BATCH * (steps + WARM_UP), IMAGES if keeps else 0)


def options_of(method: str | None) -> dict[str, dict[str, object]]:
    """Options of a method that make it fit to be timed; those that train further networks have none."""
    if method is None or not all(issubclass(kind, Distiller) for kind in Registry().methods(method)):
        return {}
    return {method: {"weight": WEIGHT, **OPTIONS.get(method, {})}}


def measure(method: str | None, teacher: str, student: str, steps: int, **train: object) -> tuple[float, float]:
    """Median seconds of a step of kdengine and of the plain loop, after three steps of warm-up."""
    watch = Alternation(PlainLoop(teacher, student), steps + WARM_UP)
    with tempfile.TemporaryDirectory() as folder, suppress(Enough):
        Engine(
            timm.create_model(teacher, num_classes=CLASSES) if method else None,
            timm.create_model(student, num_classes=CLASSES),
            plugins=[method] if method else [],
            options=options_of(method),
            data=random_data(images_for(method, steps)),
            epochs=1,
            batch_size=BATCH,
            out=f"{folder}/run",
            observers=[watch],
            **train,
        ).fit()
    return statistics.median(watch.mine[WARM_UP:]), statistics.median(watch.theirs[WARM_UP:])


def main() -> None:
    """Print the table."""
    hush()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", default="st,fitnet,at,rkd")
    parser.add_argument("--teacher", default="resnet32")
    parser.add_argument("--student", default="resnet8")
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    facts = Runtime().describe()
    print(
        f"{arguments.teacher} -> {arguments.student}, batch {BATCH} of [3, 32, 32], {CLASSES} classes, {arguments.steps} steps;"
    )
    print(f"{facts['device_name']}, {facts['threads']} threads, torch {torch.__version__}, auto = {facts['precision']}\n")
    print("| method | precision | kdengine, ms | plain fp32 loop, ms | ratio |\n| --- | --- | --- | --- | --- |")
    for method in [None, *expanded(arguments.methods.split(","), Registry())]:
        for precision in ("auto", "fp32"):
            mine, theirs = measure(method, arguments.teacher, arguments.student, arguments.steps, precision=precision)
            print(
                f"| {method or 'plain student'} | {precision} | {1e3 * mine:.0f} | {1e3 * theirs:.0f} | {mine / theirs:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    import kdzoo

    main()
