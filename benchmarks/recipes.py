"""Compares methods under two recipes on CIFAR-100: does a gain survive strong augmentation?

    python benchmarks/recipes.py --data hf:../shared/data/cifar100

For each recipe a comparison of its own: the same teacher, seeds and initial students. What has been computed is kept in the
folder, so that an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from kdengine import Comparison, Engine

RECIPES = {
    "crop-flip": {"augment": "crop-flip"},
    "RandAugment + mixup + EMA": {"augment": "crop-flip+rand-augment", "mixup": 0.2, "ema": 0.999},
}


def trained_teacher(data: str, epochs: int, folder: Path) -> str:
    """The weights of the teacher, trained once under the weaker recipe."""
    if not (folder / "result.json").exists():
        engine = Engine.resume(folder) if folder.exists() else Engine(None, "resnet20", (), data, epochs=epochs, out=folder)
        engine.fit()
    return str(folder / "student.safetensors")


def main() -> None:
    """Print one table for each recipe, with the time that it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar100")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--teacher-epochs", type=int, default=20)
    parser.add_argument("--trials", type=int, default=2)
    parser.add_argument("--methods", default="st,at")
    parser.add_argument("--out", type=Path, default=Path("runs/recipes"))
    given = parser.parse_args()
    teacher = trained_teacher(given.data, given.teacher_epochs, given.out / "teacher")
    for name, recipe in RECIPES.items():
        folder, start = given.out / name.replace(" ", ""), time.perf_counter()
        if (folder / "comparison.json").exists():
            board = Comparison.resume(folder).fit()
        else:
            settings = {"epochs": given.epochs, "trials": given.trials, "teacher_weights": teacher, "out": folder, **recipe}
            board = Comparison("resnet20", "resnet8", given.methods.split(","), given.data, **settings).fit()
        print(f"\n**{name}**, {time.perf_counter() - start:.0f} s\n\n{board}")


if __name__ == "__main__":
    main()
