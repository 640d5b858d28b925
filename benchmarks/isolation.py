"""Measures what engines leave behind: live modules, tensors and memory of a process that trains many in sequence.

    python benchmarks/isolation.py

Each engine distils its own teacher into a student by FitNet, which has connectors, for one epoch of 64 digits, and is deleted.
Live objects are counted after a garbage collection; memory is the resident set size of the process.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import os
import platform
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch

from kdengine import Engine
from kdengine.testing import tiny_pair
from kdengine.training.runtime import Runtime

STOPS = (1, 50, 100, 150, 200)
MEBIBYTE = 2**20


def one(folder: Path, number: int) -> None:
    """One engine, from beginning to end."""
    teacher, _ = tiny_pair(seed=number)
    settings = {"data": "digits@train=64@test=32", "epochs": 1, "batch_size": 32, "device": "cpu", "precision": "fp32"}
    Engine(teacher, "resnet8", ["fitnet"], seed=number, out=folder / str(number), **settings).fit()


def alive() -> tuple[int, int, float]:
    """Live modules and tensors, and the memory of the process in MiB."""
    gc.collect()
    kinds = [type(item) for item in gc.get_objects()]
    modules = sum(issubclass(kind, torch.nn.Module) for kind in kinds)
    tensors = sum(issubclass(kind, torch.Tensor) for kind in kinds)
    return modules, tensors, psutil.Process().memory_info().rss / MEBIBYTE


def rows(stops: tuple[int, ...]) -> Iterator[tuple[int, int, int, float]]:
    """What is alive after each number of engines."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(1, stops[-1] + 1):
            one(Path(folder), number)
            if number in stops:
                yield number, *alive()


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", type=int, default=STOPS[-1])
    engines = parser.parse_args().engines
    machine = Runtime("cpu", "fp32").describe()
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("kdengine", "torch", "timm"))
    print(f"{machine['device_name']}, {os.cpu_count()} cores, threads of torch: {machine['threads']}, {machine['precision']}")
    print(f"Python {platform.python_version()}, {versions}")
    print(f"`python benchmarks/isolation.py --engines {engines}`\n")
    print("| engines | live modules | live tensors | memory, MiB |\n|--:|--:|--:|--:|")
    for count, modules, tensors, memory in rows(tuple(sorted({*(stop for stop in STOPS if stop < engines), engines}))):
        print(f"| {count} | {modules} | {tensors} | {memory:.0f} |", flush=True)


if __name__ == "__main__":
    main()
