"""Tests every timm family with every method: does it build and take a training step without any option?

    python benchmarks/compatibility.py --out docs/compatibility.md

Each family's smallest network teaches a small CNN, is taught by one, and teaches a small transformer. Steps are
real, in fp32 and in bf16 autocast, on 64 x 64 images or of the size that a network requires; if a plain step takes longer than
--patience seconds, or all methods longer than --limit or more memory than there is, they run on the meta device instead. Each
family runs in a process of its own, --workers at a time, and writes its results to a file in --notes, so that an interrupted
command resumes where it stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import timm
import torch

from kdengine import Curriculum, KDError, Registry, StepTransform
from kdengine.networks.network import Network
from kdengine.storage.writing import write_json
from kdengine.testing.families import SMALLEST
from kdengine.testing.matrix import Pairing, make_network, smallest_network
from kdengine.training.runtime import Runtime

CNN_STUDENT, CNN_TEACHER, TRANSFORMER = "resnet8", "resnet20", "timm:vit_tiny_patch16_224"
PRECISIONS = ("fp32", "bf16")
NOT_TOGETHER = (Curriculum, StepTransform)
"""Kinds of methods that change what others do."""
OF_CLASSIFIERS = ("cat-kd", "simkd", "srrl")
"""Methods that read classifiers, which some networks do not have in the form that they need."""
ROLES = ("teaches a CNN", "is taught by a CNN", "teaches a transformer")
REAL, META, REFUSED = "\N{BLACK CIRCLE}", "\N{WHITE CIRCLE}", "\N{MULTIPLICATION SIGN}"


def main() -> None:
    """Fill the matrix and write the page; or, with --family, try one family."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/compatibility.md"))
    parser.add_argument("--families", nargs="*", default=list(SMALLEST), help="all by default")
    parser.add_argument("--family", help="try only this family, in this process, and write no page")
    parser.add_argument("--patience", type=float, default=3.0, help="longest plain step on the CPU, in seconds")
    parser.add_argument("--limit", type=float, default=900.0, help="longest time for a family's real steps, in seconds")
    parser.add_argument("--workers", type=int, default=1, help="families at a time")
    parser.add_argument("--notes", type=Path, default=Path("runs/compatibility"), help="results so far, a file for each family")
    given = parser.parse_args()
    given.notes.mkdir(parents=True, exist_ok=True)
    methods = Registry().all_methods(serving="classes")
    if given.family:
        write_json(given.notes / f"{given.family}.json", tried(SMALLEST[given.family], methods, given.patience))
        return
    with ThreadPoolExecutor(given.workers) as pool:
        for line in pool.map(lambda family: run(family, given.notes, given.patience, given.limit), given.families):
            print(line, flush=True)
    results = {file.stem: json.loads(file.read_text()) for file in sorted(given.notes.glob("*.json"))}
    given.out.write_text(page(results, methods), encoding="utf-8")


def run(family: str, notes: Path, patience: float, limit: float) -> str:
    """Try a family in a process of its own, on the meta device if the real steps take too long or are killed."""
    file, start = notes / f"{family}.json", time.perf_counter()
    command = [sys.executable, __file__, "--family", family, "--notes", str(notes), "--patience"]
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    if not file.exists():
        try:
            subprocess.run([*command, str(patience)], check=True, timeout=limit, env=alone)
        except (subprocess.TimeoutExpired, subprocess.CalledProcessError):
            subprocess.run([*command, "0"], check=False, env=alone)
    if not file.exists():
        return f"{family}: failed, and is missing on the page"
    row = json.loads(file.read_text())
    refused = sum(why is not None for cells in row["cells"].values() for why in cells.values())
    return f"{family}: {'meta' if row['meta'] else 'real'}, {refused} refused, {time.perf_counter() - start:.0f} s"


def tried(model: str, methods: Sequence[str], patience: float) -> dict[str, object]:
    """Why each method fails with a network, by role; None if it works."""
    try:
        network, side = smallest_network(f"timm:{model}", meta=True)
    except KDError as error:
        return {
            "model": model,
            "meta": True,
            "side": None,
            "where": where(),
            "cells": {role: dict.fromkeys(methods, str(error)) for role in ROLES},
        }
    meta = network.anatomy.parameters > 2e8 or not is_quick(f"timm:{model}", side, patience)
    made = {spec: make_network(spec, side, meta) for spec in (CNN_STUDENT, CNN_TEACHER, TRANSFORMER, f"timm:{model}")}
    it = made[f"timm:{model}"]
    pairs: list[tuple[Network, Network]] = [(it, made[CNN_STUDENT]), (made[CNN_TEACHER], it), (it, made[TRANSFORMER])]
    cells = {role: dict[str, str | None]() for role in ROLES}
    for role, (teacher, student) in zip(ROLES, pairs, strict=True):
        for precision in PRECISIONS[:1] if meta else PRECISIONS:
            found = attempts(Pairing(teacher, student, side, meta, precision), methods)
            cells[role] = {name: cells[role].get(name) or why for name, why in found.items()}
    return {"model": model, "meta": meta, "side": side, "where": where(), "cells": cells}


def where() -> str:
    """The machine and the version of torch, which may change before a page is complete."""
    return f"{Runtime('cpu', alone=True).describe()['device_name']}, torch {torch.__version__}"


def attempts(pairing: Pairing, methods: Sequence[str]) -> dict[str, str | None]:
    """Why each method fails; those that work take their step in one lane, which saves time."""
    registry = Registry()
    alone = [name for name in methods if any(issubclass(method, NOT_TOGETHER) for method in registry.methods(name))]
    heads = [name for name in methods if name in OF_CLASSIFIERS]
    together = [name for name in methods if name not in {*alone, *heads}]
    groups = (together, heads, *([name] for name in alone))
    return {name: why for group in groups if group for name, why in pairing.attempts(*group).items()}


def is_quick(spec: str, side: int, patience: float) -> bool:
    """Whether a forward and a backward of the network take no longer than this many seconds."""
    model = make_network(spec, side, meta=False).module.train()
    start = time.perf_counter()
    model(torch.randn(4, 3, side, side)).square().mean().backward()
    return time.perf_counter() - start <= patience


def page(results: dict[str, dict], methods: list[str]) -> str:
    """The document."""
    cells = [why for row in results.values() for role in ROLES for why in row["cells"][role].values()]
    refusals = sum(why is not None for why in cells)
    meta = sum(row["meta"] for row in results.values())
    machines = Counter(row["where"] for row in results.values())
    reasons: dict[str, int] = {}
    taken = len(cells) - refusals
    lines = [
        "# Compatibility",
        "",
        f"Every family of timm {timm.__version__} with every method, without any option: of {len(cells):,} cells, "
        f"{taken:,} build and take a training step, and {refusals} ({100 * refusals / len(cells):.1f} %) do not.",
        "",
        "```console",
        "$ python benchmarks/compatibility.py --out docs/compatibility.md",
        "```",
        "",
        f"Each family is represented by its smallest network, which {ROLES[0]} (`{CNN_STUDENT}`), "
        f"{ROLES[1]} (`{CNN_TEACHER}`) and {ROLES[2]} (`{TRANSFORMER}`); a cell has one mark for each of the three.",
        "",
        f"* {REAL}: a real step on the CPU, in {' and in '.join(PRECISIONS)}: {len(results) - meta} families",
        f"* {META}: a step on the meta device, because the network or all methods on it are too large: {meta} families",
        f"* {REFUSED}: no step, for the reason with that number below",
        "",
        "`side` is the side of the images; 4 images per step, 10 classes, seed 0. Methods that leave others as they are take "
        f"their step together in one lane, and in halves if that fails. Tried on {inwords(machines)}.",
        "",
        "| family | network | side | " + " | ".join(methods) + " |",
        "| --- | --- | --- |" + " --- |" * len(methods),
    ]
    for family in sorted(results):
        row = results[family]
        marks = [" ".join(mark(row["cells"][role][method], row["meta"], reasons) for role in ROLES) for method in methods]
        lines.append(f"| {family} | {row['model']} | {row['side']} | {' | '.join(marks)} |")
    if reasons:
        lines += ["", "## What does not work, and why", ""]
        lines += [f"{number}. {' '.join(reason.split())}" for reason, number in reasons.items()]
    return "\n".join(lines) + "\n"


def inwords(machines: Mapping[str, int]) -> str:
    """``AMD EPYC, torch 2.14.1 (90 families) and ...``."""
    return " and on ".join(f"{machine} ({count} families)" for machine, count in sorted(machines.items()))


def mark(why: str | None, meta: bool, reasons: dict[str, int]) -> str:
    """One mark; a refusal is numbered by its reason."""
    if why is None:
        return META if meta else REAL
    return f"{REFUSED}{reasons.setdefault(why, len(reasons) + 1)}"


if __name__ == "__main__":
    main()
