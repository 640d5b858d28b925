"""Tests every timm family with every method: does it build and take a training step without any option?

    python benchmarks/compatibility.py --on local -o local.workers=2 --out docs/compatibility.md

Each family's smallest network teaches a small CNN, is taught by one, and teaches a small transformer. Steps are
real, in fp32 and in bf16 autocast, on 64 x 64 images or of the size that a network requires; if a plain step takes longer than
--patience seconds, or all methods longer than --limit or more memory than there is, they run on the meta device instead. Each
family is a unit of work for the launcher --on: it runs in a process of its own and writes its results to a file in --notes,
which all workers must see, so that an interrupted command resumes where it stopped, and a method that has come since is tried
alone.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch

from kdengine import Curriculum, Demand, KDError, Launcher, Outcome, Registry, StepTransform, Unit
from kdengine.cli.launching import launcher_for
from kdengine.dispatch.driver import Driver
from kdengine.dispatch.handover import lay_token
from kdengine.dispatch.travel import carried_environment
from kdengine.launchers.fitness import expectation
from kdengine.networks.network import Network
from kdengine.storage.writing import write_json
from kdengine.testing.families import SMALLEST
from kdengine.testing.matrix import Pairing, make_network, smallest_network
from kdengine.training.runtime import Runtime
from kdengine.training.signals import Stopped

CNN_STUDENT, CNN_TEACHER, TRANSFORMER = "resnet8", "resnet20", "timm:vit_tiny_patch16_224"
PRECISIONS = ("fp32", "bf16")
NOT_TOGETHER = (Curriculum, StepTransform)
"""Kinds of methods that change what others do."""
OF_CLASSIFIERS = ("cat-kd", "simkd", "srrl")
"""Methods that read classifiers, which some networks do not have in the form that they need."""
ROLES = ("teaches a CNN", "is taught by a CNN", "teaches a transformer")
REAL, META, REFUSED = "\N{BLACK CIRCLE}", "\N{WHITE CIRCLE}", "\N{MULTIPLICATION SIGN}"


PLACE = "units"
"""The folder in --notes for what the launcher needs, and the logs of the units; it is kept only if one fails."""


def main() -> None:
    """Fill the matrix and write the page; or, with --family, try one family."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/compatibility.md"))
    parser.add_argument(
        "--families", nargs="*", default=list(SMALLEST), choices=SMALLEST, metavar="FAMILY", help="all by default"
    )
    parser.add_argument(
        "--family", choices=SMALLEST, metavar="FAMILY", help="try only this family, in this process, and write no page"
    )
    parser.add_argument("--patience", type=float, default=3.0, help="longest plain step on the CPU, in seconds")
    parser.add_argument("--limit", type=float, default=900.0, help="longest time for a family's real steps, in seconds")
    parser.add_argument("--on", default="local", metavar="LAUNCHER", help="local, or ray, slurm ... of plugins")
    parser.add_argument("-o", dest="options", action="append", default=[], metavar="LAUNCHER.OPTION=VALUE")
    parser.add_argument("--notes", type=Path, default=Path("runs/compatibility"), help="results so far, a file for each family")
    given = parser.parse_args()
    given.notes.mkdir(parents=True, exist_ok=True)
    methods = Registry().all_methods(serving="classes")
    if given.family:
        Family(given.family, given.notes, methods).complete(given.patience)
    else:
        try:
            launcher = launcher_for(given.on, given.options, Registry())
        except KDError as error:
            parser.error(str(error))
        assert launcher is not None  # --on has a default
        dispatch(given, launcher, methods)
        families = [Family(file.stem, given.notes, methods) for file in sorted(given.notes.glob("*.json"))]
        given.out.write_text(page({one.name: one.read() for one in families if not one.missing}, methods), encoding="utf-8")


@dataclass(frozen=True, eq=False)
class Family:
    """One family, as the unit of a launcher.

    Attributes:
        name: its name.
        notes: the folder with the results.
        methods: those to try.
    """

    name: str
    notes: Path
    methods: Sequence[str]

    @property
    def file(self) -> Path:
        """The results."""
        return self.notes / f"{self.name}.json"

    def read(self) -> dict[str, Any]:
        """The results so far."""
        nothing = {"meta": False, "where": [], "cells": {role: {} for role in ROLES}}
        return json.loads(self.file.read_text()) if self.file.exists() else nothing

    @property
    def missing(self) -> list[str]:
        """Methods without a result in some role."""
        cells = self.read()["cells"]
        return [method for method in self.methods if any(method not in cells[role] for role in ROLES)]

    def complete(self, patience: float) -> None:
        """Try the methods without results, on the meta device if that was so for the others, too.

        Args:
            patience: the longest plain step with real tensors, in seconds, if nothing is known; 0 for none at all.
        """
        known = self.read()
        if patience and known["where"]:
            patience = 0 if known["meta"] else math.inf
        row = tried(SMALLEST[self.name], self.missing, patience)
        cells = {role: {**known["cells"][role], **row["cells"][role]} for role in ROLES}
        write_json(self.file, {**row, "where": sorted({*known["where"], row["where"]}), "cells": cells})

    def has_ended(self, outcome: Outcome) -> bool:
        """Whether all its results are there; says so."""
        if self.missing:
            return False
        row = self.read()
        refused = sum(row["cells"][role][method] is not None for role in ROLES for method in self.methods)
        print(f"{self.name}: {'meta' if row['meta'] else 'real'}, {refused} refused", flush=True)
        return True


class Lines:
    """Prints what becomes of the units."""

    def say(self, text: str) -> None:
        """Print a line."""
        print(text, flush=True)

    def tell(self, unit: str, event: Mapping[str, Any]) -> None:
        """Print nothing: these units tell nothing."""


def dispatch(given: argparse.Namespace, launcher: Launcher, methods: Sequence[str]) -> None:
    """Try all families without results by a launcher; what fails for good is said, and missing on the page.

    Raises:
        SystemExit: a worker is not fit for the work, or it was interrupted.
    """
    script, place = os.path.abspath(__file__), given.notes.absolute() / PLACE
    left = [one for one in (Family(name, given.notes, methods) for name in given.families) if one.missing]
    place.mkdir(exist_ok=True)
    try:
        own = [plugin.distribution for plugin in Registry().plugins]
        launcher.open(Demand("cpu", str(place), expectation(own, [script, sys.executable], lay_token(place))))
        for patience, limit in ((given.patience, given.limit), (0.0, None)):
            work = {one.name: (one, unit(one, script, patience, limit), place / f"{one.name}.jsonl") for one in left}
            failed: dict[Family, str] = {}
            Driver(launcher, Lines(), failed.__setitem__).run(work)
            left = list(failed)
    except (KDError, Stopped) as error:
        sys.exit(str(error) or "Interrupted; the same command goes on where this one stopped.")
    finally:
        launcher.close()
    if not left:
        shutil.rmtree(place)


def unit(family: Family, script: str, patience: float, limit: float | None) -> Unit:
    """What the launcher gets: a command that is ended after so many seconds."""
    notes = family.notes.absolute()
    command = [sys.executable, script, "--family", family.name, "--notes", str(notes), "--patience", str(patience)]
    log = str(notes / PLACE / f"{family.name}.log")
    arguments = {"args": command, "timeout": limit}
    return Unit(family.name, "subprocess:check_call", arguments, 1, os.getcwd(), carried_environment(), log)


def tried(model: str, methods: Sequence[str], patience: float) -> dict[str, Any]:
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


def page(results: Mapping[str, dict[str, Any]], methods: Sequence[str]) -> str:
    """The document."""
    cells = [why for row in results.values() for role in ROLES for why in row["cells"][role].values()]
    refusals = sum(why is not None for why in cells)
    meta = sum(row["meta"] for row in results.values())
    machines = Counter(" and ".join(row["where"]) for row in results.values())
    reasons: dict[str, int] = {}
    taken = len(cells) - refusals
    lines = [
        "# Compatibility",
        "",
        f"Every family of timm {timm.__version__} with every method, without any option: of {len(cells):,} cells, "
        f"{taken:,} build and take a training step, and {refusals} ({100 * refusals / len(cells):.1f} %) do not.",
        "",
        "```console",
        "$ python benchmarks/compatibility.py --on local -o local.workers=2 --out docs/compatibility.md",
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
    return "; on ".join(f"{machine} ({count} families)" for machine, count in sorted(machines.items()))


def mark(why: str | None, meta: bool, reasons: dict[str, int]) -> str:
    """One mark; a refusal is numbered by its reason."""
    if why is None:
        return META if meta else REAL
    return f"{REFUSED}{reasons.setdefault(why, len(reasons) + 1)}"


if __name__ == "__main__":
    main()
