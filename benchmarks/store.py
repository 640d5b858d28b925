"""Measures what a filled teacher store saves: steps that read what the teacher showed, as ratios to a plain fp32 loop.

    python benchmarks/store.py

Every step alternates with one of the plain loop of benchmarks/step.py. The store is filled once; then each method runs on it by
itself, one after the other, as separate runs would, and the teacher must not run again. The plain student in the same round
tells what a step without any teacher costs.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from unittest import mock

import timm
import torch

from kdengine import Engine
from kdengine.storage.store_folder import StoreFolder
from kdengine.training.runtime import Runtime
from kdengine.training.teacher import FrozenTeacher

sys.path.insert(0, str(Path(__file__).parent))
from step import BATCH, CLASSES, WARM_UP, Alternation, Enough, PlainLoop, hush, options_of, random_data

TEACHER, STUDENT = "resnet32", "resnet8"
FEW = ("st", "rkd", "dist")
MANY = (
    *("st", "dkd", "nkd", "dist", "ttm", "wttm", "mbd-soft", "mbd-hard"),
    *("rkd", "sp", "pkt", "cc", "at", "nst", "cwd", "fitnet"),
)
"""Methods that read logits, embeddings and maps."""


class Asked(Exception):
    """A teacher ran although all that it showed is in the store."""


def engine(
    method: str | None, folder: str, batches: int, store: Path | None, precision: str, observers: Sequence[object]
) -> Engine:
    """A run of one epoch on the same images with the same teacher, whatever else differs."""
    torch.manual_seed(0)
    data = random_data(batches)
    return Engine(
        timm.create_model(TEACHER, num_classes=CLASSES) if method else None,
        timm.create_model(STUDENT, num_classes=CLASSES),
        plugins=[method] if method else [],
        options=options_of(method),
        data=data,
        epochs=1,
        batch_size=BATCH,
        precision=precision,
        out=f"{folder}/run",
        observers=observers,
        **({"teacher_store": {"folder": str(store), "taps": "stages"}} if store is not None and method else {}),
    )


def measure(method: str | None, steps: int, precision: str, store: Path | None = None) -> tuple[float, float]:
    """Median seconds of a step of kdengine and of the plain loop; with a store, the teacher must not run."""
    watch = Alternation(PlainLoop(TEACHER, STUDENT), steps + WARM_UP)

    def asked(*_: object, **__: object) -> None:
        raise Asked(f"{method} ran the teacher")

    guarded = nullcontext() if store is None else mock.patch.object(FrozenTeacher, "_forward", asked)
    with guarded, tempfile.TemporaryDirectory() as folder, suppress(Enough):
        engine(method, folder, BATCH * (steps + WARM_UP), store, precision, [watch]).fit()
    return statistics.median(watch.mine[WARM_UP:]), statistics.median(watch.theirs[WARM_UP:])


def fill(store: Path, steps: int, precision: str) -> None:
    """Fill a store with logits, embedding and the maps of all stages."""
    with tempfile.TemporaryDirectory() as folder:
        engine("st", folder, BATCH * (steps + WARM_UP), store, precision, []).fit()


def few(arguments: argparse.Namespace, store: Path, precision: str) -> None:
    """A row for each of a few methods, with and without the store, next to the plain student."""
    cases = [(None, None), *((method, None) for method in FEW), *((method, store) for method in FEW)]
    rounds = [[measure(method, arguments.steps, precision, kept) for method, kept in cases] for _ in range(arguments.rounds)]
    shares = [[mine / theirs for mine, theirs in row] for row in rounds]  # the machine's speed varies from row to row
    for number, (method, kept) in enumerate(cases):
        mine, theirs = (statistics.median(row[number][place] for row in rounds) for place in (0, 1))
        ratio = statistics.median(row[number] for row in shares)
        alone = statistics.median(row[number] / row[0] for row in shares)
        teacher = "none" if method is None else "runs" if kept is None else "read"
        name = method or "plain student"
        print(
            f"| {name} | {precision} | {teacher} | {1e3 * mine:.0f} | {1e3 * theirs:.0f} | {ratio:.2f} | {alone:.2f} |",
            flush=True,
        )


def many(arguments: argparse.Namespace, store: Path, precision: str) -> None:
    """The average over many methods, one after the other."""
    ratios = {method: mine / theirs for method in MANY for mine, theirs in [measure(method, arguments.steps, precision, store)]}
    listed = ", ".join(f"{method} {ratio:.2f}" for method, ratio in sorted(ratios.items(), key=lambda item: item[1]))
    print(f"| {precision} | {len(ratios)} | {statistics.mean(ratios.values()):.2f} | {listed} |", flush=True)


def sizes(store: Path, steps: int, precision: str) -> None:
    """What is kept of one image in one epoch, in logits and embedding, and in the maps beside them."""
    images = BATCH * (steps + WARM_UP)
    files = [file for file in store.rglob("epoch-*/*") if file.is_file()]
    small = sum(file.stat().st_size for file in files if not file.name.startswith("stage"))
    maps = sum(file.stat().st_size for file in files) - small
    print(f"| {precision} | {small / images:.0f} | {maps / images:.0f} | {StoreFolder(store).size / 2**20:.1f} |", flush=True)


def main() -> None:
    """Print the tables."""
    hush()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3, help="number of measurements; medians are printed")
    parser.add_argument("--precisions", default="auto,fp32")
    arguments = parser.parse_args()
    facts, precisions = Runtime().describe(), arguments.precisions.split(",")
    print(f"{TEACHER} -> {STUDENT}, batch {BATCH} of [3, 32, 32], {CLASSES} classes; {facts['device_name']},")
    print(f"{facts['threads']} threads, torch {torch.__version__}, auto = {facts['precision']}, ", end="")
    print(f"{arguments.rounds} rounds of {arguments.steps} steps\n")
    with tempfile.TemporaryDirectory() as folder:
        stores = {precision: Path(folder) / precision for precision in precisions}
        for precision, store in stores.items():
            fill(store, arguments.steps, precision)
        print(
            "| method | precision | teacher | kdengine, ms | plain fp32 loop, ms | ratio | of the plain student |\n|"
            + " --- |" * 7
        )
        for precision, store in stores.items():
            few(arguments, store, precision)
        print("\n| precision | methods | mean ratio | each |\n|" + " --- |" * 4)
        for precision, store in stores.items():
            many(arguments, store, precision)
        print("\n| precision | logits and embedding, bytes an image | maps, bytes an image | folder, MiB |\n|" + " --- |" * 4)
        for precision, store in stores.items():
            sizes(store, arguments.steps, precision)


if __name__ == "__main__":
    import kdzoo

    main()
