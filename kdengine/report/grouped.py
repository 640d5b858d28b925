"""Tables over any run folders: a table for each group of runs that can be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kdengine.report.columns import decimals, gain
from kdengine.report.differences import alike, trained_like
from kdengine.report.leaderboard import GAIN, Leaderboard
from kdengine.report.pastrun import FINISHED, PastRun, find_runs
from kdengine.report.table import Table, results_table

__all__ = ["joined", "tables_of"]

AFTER = 6
"""Columns before the gain: network, method, seed, epochs, last and best score."""


def tables_of(folders: Sequence[str | Path], mixed: bool = False) -> list[Table]:
    """The leaderboard of one comparison; else a row for each run, in a table for each group of runs that are alike.

    Args:
        folders: run folders, or folders with run folders below them.
        mixed: put all runs into one table, also those on different data, or trained with different settings.

    Raises:
        SettingsError: a folder holds no run, or the runs of one table have different tasks.
    """
    board = Leaderboard.of_comparison(folders)
    if board is not None:
        return [board.table()]
    runs = find_runs(folders)
    groups = [("", runs)] if mixed else alike(runs)
    return [_table(title, group, mixed, several=len(groups) > 1) for title, group in groups]


def joined(tables: Sequence[Table]) -> Table:
    """All tables in one, for programs: the first column names the table, and columns that a table lacks are empty."""
    if len(tables) == 1:
        return tables[0]
    sheets = [table.sheet or table for table in tables]
    columns = tuple(dict.fromkeys(name for sheet in sheets for name in sheet.columns))
    rows = []
    for table, sheet in zip(tables, sheets, strict=True):
        for row in sheet.rows:
            cells = dict(zip(sheet.columns, row, strict=True))
            rows.append((table.caption.partition(". ")[0], *(cells.get(name, "") for name in columns)))
    return Table("", ("table", *columns), tuple(rows))


def _table(title: str, runs: Sequence[PastRun], mixed: bool, several: bool) -> Table:
    folders = [run.folder for run in runs]
    if several and runs[0].comparison:
        table = Leaderboard.of(folders).table()
    else:
        table = _with_gains(results_table(folders, mixed), runs)
    return replace(table, caption=f"{title}. {table.caption}") if title else table


def _with_gains(table: Table, runs: Sequence[PastRun]) -> Table:
    """With a column of what each run gains over a plain run with the same settings and seed, if there is one for any."""
    gains = [_gain(run, runs) for run in runs]
    if not any(gains):
        return table
    of_rows = iter(gains)
    added = ["" if row[1] == "teacher" else next(of_rows) for row in table.rows]  # students stand in the order of runs

    def wider(one: Table) -> Table:
        rows = [(*row[:AFTER], cell, *row[AFTER:]) for row, cell in zip(one.rows, added, strict=True)]
        return replace(one, columns=(*one.columns[:AFTER], GAIN, *one.columns[AFTER:]), rows=tuple(rows))

    return replace(wider(table), sheet=wider(table.sheet) if table.sheet else None)


def _gain(run: PastRun, runs: Sequence[PastRun]) -> str:
    headline = run.scoring.headline
    score = run.student.get(headline.name)
    if not run.settings.methods or run.state != FINISHED or score is None:
        return ""
    for other in runs:
        if not other.settings.methods and other.state == FINISHED and trained_like(other, run):
            baseline = other.student.get(headline.name)
            return "" if baseline is None else f"{gain(headline, score, baseline):+.{decimals(headline)}f}"
    return ""
