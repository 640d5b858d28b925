"""Measures the cost of the checks during training, as a share of the training time.

    python benchmarks/checks.py

Every check is timed in place, in an epoch of attention transfer on random images, for pairs of three sizes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import kdzoo  # makes timm know the small networks
import timm
import torch

import kdengine.training.updater
from kdengine import Data, Engine, Split
from kdengine.data.audit import AuditedBatches
from kdengine.training.runtime import Runtime
from kdengine.training.teacher import FrozenTeacher

PAIRS = (("resnet32", "resnet8"), ("resnet32x4", "resnet8x4"), ("resnet50", "mobilenetv3_small_100"))
CLASSES = 10
CHECKS = {
    "teacher in eval(), each pass": (FrozenTeacher, "check_mode"),
    "teacher not written to, each step": (FrozenTeacher, "check_untouched"),
    "teacher unchanged bit for bit, each epoch": (FrozenTeacher, "check_unchanged"),
    "gradients finite, each step": (kdengine.training.updater, "norm_of_gradients"),
    "every image once, each epoch": (AuditedBatches, "check"),
}


class Clock:
    """Accumulates the time spent in a function."""

    def __init__(self, function: Callable[..., object]) -> None:
        self.function = function
        self.seconds = 0.0

    def timed(self) -> Callable[..., object]:
        """The function, timed."""

        def call(*arguments: object) -> object:
            start = time.perf_counter()
            result = self.function(*arguments)
            self.seconds += time.perf_counter() - start
            return result

        return call


def random_data(images: int) -> Data:
    """Images of noise."""
    generator = torch.Generator().manual_seed(0)

    def split(count: int) -> Split:
        pixels = torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
        return Split(torch.randint(CLASSES, (count,), generator=generator), pixels)

    names = tuple(map(str, range(CLASSES)))
    return Data("noise", names, (3, 32, 32), (0.5,) * 3, (0.25,) * 3, "crop-flip", split(images), split(16))


def shares(teacher: str, student: str, folder: Path, images: int) -> dict[str, float]:
    """Percent of the time of an epoch that each check takes."""
    pair = [timm.create_model(name, num_classes=CLASSES) for name in (teacher, student)]
    clocks = {}
    for name, (owner, attribute) in CHECKS.items():
        clocks[name] = Clock(getattr(owner, attribute))
        setattr(owner, attribute, clocks[name].timed())
    settings = {"data": random_data(images), "epochs": 1, "batch_size": 64, "lr": 0.01}
    try:
        result = Engine(*pair, ["at"], out=folder / student, **settings).fit()
    finally:
        for name, (owner, attribute) in CHECKS.items():
            setattr(owner, attribute, clocks[name].function)
    whole = result.history[0]["seconds"]
    return {name: 100 * clock.seconds / whole for name, clock in clocks.items()}


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=8192, help="in the epoch that is timed")
    images = parser.parse_args().images
    with TemporaryDirectory() as folder:
        measured = {pair: shares(*pair, Path(folder), images) for pair in PAIRS}
    machine = Runtime().describe()
    print(f"{machine['device_name']}, {machine['threads']} threads, {machine['precision']}, torch {torch.__version__}")
    print(f"`at`, {images} images of 32 by 32, batches of 64, percent of the time of the epoch\n")
    print("| check | " + " | ".join(f"{teacher} -> {student}" for teacher, student in PAIRS) + " |")
    print("| --- |" + " --- |" * len(PAIRS))
    for name in CHECKS:
        print(f"| {name} | " + " | ".join(f"{measured[pair][name]:.3f}" for pair in PAIRS) + " |")
    print("| all together | " + " | ".join(f"{sum(measured[pair].values()):.3f}" for pair in PAIRS) + " |")


if __name__ == "__main__":
    main()
