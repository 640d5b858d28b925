"""Every installed method on one pair of networks: the same data, seed, epochs and teacher, one run each, one table.

    python benchmarks/methods.py --data cifar100 --teacher resnet20 --student resnet8 --epochs 30

The teacher is trained first and the student alone is trained too, both by the same settings. Runs that are finished are
not repeated and those that were interrupted go on, so the same command can be given again.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kdengine import Registry

KDENGINE = [sys.executable, "-m", "kdengine"]


def main() -> int:
    """Train everything that is not trained yet, then print the table."""
    arguments = parsed()
    out: Path = arguments.out
    train(out / "teacher", ["train", "--model", arguments.teacher], arguments, epochs=arguments.teacher_epochs)
    jobs = {"plain": ["train", "--model", arguments.student]}
    for method in arguments.methods or installed():
        pair = ["--teacher", arguments.teacher, "--teacher-weights", str(out / "teacher" / "student.safetensors")]
        jobs[method] = ["run", "--plugin", method, "--student", arguments.student, *pair]
    with ThreadPoolExecutor(arguments.workers) as pool:
        codes = list(pool.map(lambda name: train(out / name, jobs[name], arguments, arguments.epochs), jobs))
    done = [str(out / name) for name, code in zip(jobs, codes, strict=True) if code == 0]
    subprocess.run([*KDENGINE, "report", "--format", "markdown", *done], check=True)
    return max(codes)


def parsed() -> argparse.Namespace:
    """The arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--teacher", default="resnet20")
    parser.add_argument("--student", default="resnet8")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--teacher-epochs", type=int, default=12)
    parser.add_argument("--methods", nargs="*", help="all installed ones by default")
    parser.add_argument("--workers", type=int, default=1, help="runs at the same time; they share the cores")
    parser.add_argument("--out", type=Path, default=Path("runs/methods"))
    return parser.parse_args()


def installed() -> list[str]:
    """All methods and compositions that plugins offer."""
    registry = Registry()
    registry.load_all()
    return sorted([*registry.offered("methods"), *registry.offered("compositions")])


def train(folder: Path, command: list[str], arguments: argparse.Namespace, epochs: int) -> int:
    """One run in a process of its own, its log beside its folder; its exit code."""
    if (folder / "result.json").exists():
        return 0
    if (folder / "state").exists():
        command = ["run", "--resume", str(folder)]
    else:
        command = [*command, "--data", arguments.data, "--epochs", str(epochs), "--out", str(folder)]
    threads = max(1, (os.cpu_count() or 1) // arguments.workers)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_suffix(".log"), "a", encoding="utf-8") as log:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        return subprocess.run([*KDENGINE, *command], stdout=log, stderr=log, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
