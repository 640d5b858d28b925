"""Tables over run folders, made from their files alone."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdengine.report.benchmarks import Benchmark, cost_columns, machines
from kdengine.report.columns import number, other_measures, score_columns
from kdengine.report.differences import check_comparable, common_scoring
from kdengine.report.pastrun import FINISHED, PastRun, find_runs
from kdengine.runs.judging import in_short
from kdengine.runs.result_view import teachers_in
from kdengine.storage.scores import Scoring

__all__ = ["Table", "caption", "results_table"]

FURTHER = ("parameters", "seconds", "state")


@dataclass(frozen=True)
class Table:
    """A table as text cells.

    Attributes:
        caption: what it is about.
        columns: their titles.
        rows: their cells, for people: ``78,042``, ``14.50*``, ``73.17 ± 0.76``.
        sheet: the same for programs, one plain number per cell; by default the table itself.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    sheet: Table | None = field(default=None, repr=False)

    def to_markdown(self) -> str:
        """A Markdown table, with the caption above."""
        rows = [[cell.replace("|", "\\|") for cell in row] for row in self.rows]
        lines = [self.columns, ["---"] * len(self.columns), *rows]
        return f"{self.caption}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"

    def to_csv(self) -> str:
        """Comma-separated values with a header; numbers have no thousands separators, stars or spreads."""
        out, sheet = io.StringIO(), self.sheet or self
        csv.writer(out, lineterminator="\n").writerows([sheet.columns, *sheet.rows])
        return out.getvalue()

    def to_dict(self) -> dict[str, Any]:
        """Caption, columns and rows as plain data."""
        return {"caption": self.caption, "columns": self.columns, "rows": self.rows}


def results_table(folders: Sequence[str | Path], mixed: bool = False) -> Table:
    """Teacher and students of several runs, last and best, in the order given.

    A run that failed or is not finished is a row with what was measured; an extra column then gives its state, and so it does
    where the numbers of some run mean nothing. Where runs were benchmarked, further columns give what the networks cost.

    Args:
        folders: run folders, or folders with run folders below them.
        mixed: allow runs on different data, or trained with different settings.

    Raises:
        SettingsError: a folder holds no run, the runs do not belong in one table, or they are runs of different tasks.
    """
    runs = find_runs(folders)
    scoring = common_scoring(runs)
    if not mixed:
        check_comparable(runs)
    costs = [Benchmark.read(run.folder) for run in runs]
    measured = [cost for cost in costs if cost is not None]
    batches = sorted({count for cost in measured for count in cost.batches})
    rows: list[tuple[str, ...]] = []
    sheet: list[tuple[str, ...]] = []
    added: list[tuple[str, ...]] = []
    for run, cost in zip(runs, costs, strict=True):
        parts = [(teacher, "teacher", "", "") for teacher in teachers_in(run.teacher)]
        parts.append((run.student, run.method, str(run.settings.seed), _state(run)))
        for facts, method, seed, state in parts:
            row = _row(facts, scoring, method, seed, state)
            if method == "teacher" and row in rows:
                continue  # a teacher that several runs share is listed once
            rows.append(row)
            sheet.append(_row(facts, scoring, method, seed, state, grouped=False))
            role = "teacher" if method == "teacher" else "student"
            measured_as = cost if facts is run.teacher or role == "student" else None  # several teachers are measured together
            added.append(measured_as.cells(role, batches) if measured_as else ("",) * len(cost_columns(batches)))
    last = (
        -1 if all(run.state == FINISHED and not run.warnings for run in runs) else None
    )  # without the state, where all are the same
    titles = cost_columns(batches) if measured else ()
    columns = _widened(("network", "method", "seed", "epochs", *score_columns(scoring), *FURTHER), titles, last)
    text = " ".join([caption(runs), *([machines(measured)] if measured else [])])
    rows, sheet = (
        [_widened(row, cells[: len(titles)], last) for row, cells in zip(kind, added, strict=True)] for kind in (rows, sheet)
    )
    return Table(text, columns, tuple(rows), Table(text, columns, tuple(sheet)))


def _widened(cells: tuple[str, ...], more: tuple[str, ...], last: int | None) -> tuple[str, ...]:
    """A line with more cells before its state, which ``last`` cuts off or keeps."""
    return (*cells[:-1], *more, *cells[-1:][:last])


def _state(run: PastRun) -> str:
    """The state, and the warnings in short."""
    return "; ".join([run.news, *map(in_short, run.warnings)])


def _row(
    facts: Mapping[str, Any], scoring: Scoring, method: str, seed: str, state: str, grouped: bool = True
) -> tuple[str, ...]:
    """One network; ``grouped`` separates thousands."""
    headline = scoring.headline
    parameters = facts.get("parameters")
    return (
        facts["name"],
        method,
        seed,
        str(facts.get("epochs", "")),
        number(headline, facts.get(headline.name)),
        number(headline, facts.get(f"best_{headline.name}")),
        *(number(measure, facts.get(measure.name)) for measure in other_measures(scoring)),
        "" if parameters is None else f"{parameters:,}" if grouped else str(parameters),
        f"{facts['seconds']:.0f}" if facts.get("seconds") else "",
        state,
    )


def caption(runs: Sequence[PastRun]) -> str:
    """Data, machine and versions, each named once."""
    data = dict.fromkeys(_data(run) for run in runs)
    machines = dict.fromkeys(_machine(run.manifest) for run in runs if run.manifest)
    return " ".join(f"{' / '.join(parts)}." for parts in (data, machines) if parts)


def _data(run: PastRun) -> str:
    known = run.data
    return f"{known['name']}: {known.get('train_images', '?')} training and {known.get('test_images', '?')} test images"


def _machine(manifest: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {manifest['versions'][name]}" for name in ("torch", "timm", "kdengine"))
    return f"{manifest['device_name']}, {manifest['threads']} threads, {manifest['precision']}; {versions}"
