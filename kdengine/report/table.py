"""Tables over run folders, from what lies in them alone."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdengine.report.differences import check_comparable
from kdengine.report.pastrun import FINISHED, PastRun, find_runs

__all__ = ["Table", "caption", "results_table"]

COLUMNS = ("network", "method", "seed", "epochs", "last top-1 %", "best top-1 %", "top-5 %", "parameters", "seconds")


@dataclass(frozen=True)
class Table:
    """A table as text cells, with what it is about."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def to_markdown(self) -> str:
        """A Markdown table, with the caption above."""
        rows = [[cell.replace("|", "\\|") for cell in row] for row in self.rows]
        lines = [self.columns, ["---"] * len(self.columns), *rows]
        return f"{self.caption}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"

    def to_csv(self) -> str:
        """Comma-separated values with a header."""
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows([self.columns, *self.rows])
        return out.getvalue()


def results_table(folders: Sequence[str | Path], mixed: bool = False) -> Table:
    """Teacher and students of several runs, last and best, in the order given.

    A run that failed or is not finished is a row with what was measured; a last column then says so.

    Args:
        folders: run folders, or folders with run folders below them.
        mixed: allow runs on different data, or trained with different settings.

    Raises:
        SettingsError: a folder holds no run, or the runs do not belong in one table.
    """
    runs = find_runs(folders)
    if not mixed:
        check_comparable(runs)
    rows: list[tuple[str, ...]] = []
    for run in runs:
        teacher = _row(run.teacher, "teacher", "", "") if run.teacher else None
        if teacher is not None and teacher not in rows:
            rows.append(teacher)  # one that several runs share stands there once
        rows.append(_row(run.student, run.method, str(run.settings.seed), run.news))
    if all(run.state == FINISHED for run in runs):
        return Table(caption(runs), COLUMNS, tuple(row[:-1] for row in rows))
    return Table(caption(runs), (*COLUMNS, "state"), tuple(rows))


def _row(facts: Mapping[str, Any], method: str, seed: str, state: str) -> tuple[str, ...]:
    def percent(name: str) -> str:
        return "" if facts.get(name) is None else f"{facts[name]:.2f}"

    return (
        facts["name"],
        method,
        seed,
        str(facts.get("epochs", "")),
        percent("top1"),
        percent("best_top1"),
        percent("top5"),
        f"{facts['parameters']:,}" if "parameters" in facts else "",
        f"{facts['seconds']:.0f}" if facts.get("seconds") else "",
        state,
    )


def caption(runs: Sequence[PastRun]) -> str:
    """Data, machine and versions, each named once."""
    data = dict.fromkeys(_data(run) for run in runs)
    machines = dict.fromkeys(_machine(run.manifest) for run in runs if run.manifest)
    return " ".join(f"{' / '.join(said)}." for said in (data, machines) if said)


def _data(run: PastRun) -> str:
    known = run.data
    return f"{known['name']}: {known.get('train_images', '?')} training and {known.get('test_images', '?')} test images"


def _machine(manifest: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {manifest['versions'][name]}" for name in ("torch", "timm", "kdengine"))
    return f"{manifest['device_name']}, {manifest['threads']} threads, {manifest['precision']}; {versions}"
