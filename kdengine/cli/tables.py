"""Tables on the terminal."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kdengine.cli.widths import GAP, NOTES, Columns
from kdengine.report.columns import number, other_measures, score_columns
from kdengine.storage.scores import Scoring

__all__ = ["print_result", "print_table"]

PIPED = 160
"""Columns of text where there is no terminal."""


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str = "", keep: Collection[str] = ()) -> None:
    """Print a table on standard output; numbers are right-aligned and never broken, long texts wrap.

    On a terminal that is too narrow for it, the least important columns of numbers are left out, which is said, and notes
    stand below.

    Args:
        columns: their heads.
        rows: their cells.
        title: above the table.
        keep: columns that are never left out.
    """
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = PIPED
    whole = Columns(columns, [["" if cell is None else str(cell) for cell in row] for row in rows])
    shown = whole.fitted(console.width, keep) if console.is_terminal else whole
    widths = shown.widths(console.width)
    table = Table(title=title or None, title_justify="left", box=None, header_style="bold", pad_edge=False)
    for column, numeric, width in zip(shown.heads, shown.are_numbers, widths, strict=True):
        table.add_column(escape(column), justify="right" if numeric else "left", overflow="fold", width=width)
    for row in shown.rows:
        table.add_row(*map(escape, row))
    console.width = max(console.width, sum(widths) + GAP * (len(widths) - 1))
    console.print(table, soft_wrap=False)
    for line in shown.below:
        console.print(escape(line), soft_wrap=True)
    gone = [name for name in whole.heads if name not in (*shown.heads, NOTES) and any(whole.column(name))]
    if gone:
        console.print(f"Not shown on this narrow terminal: {', '.join(map(escape, gone))}.", style="dim", soft_wrap=True)


def print_result(facts: Mapping[str, Any], folder: str) -> None:
    """Print teachers and student of a finished run, last and best.

    Args:
        facts: as in ``result.json``.
        folder: the run folder.
    """
    from kdengine.report.pastrun import scoring_in
    from kdengine.runs.result_view import teachers_in

    scoring = scoring_in(facts)
    teachers = [_row("teacher", teacher, "", scoring) for teacher in teachers_in(facts.get("teacher"))]
    rows = [*teachers, _row("student", facts["student"], facts["method"], scoring)]
    print_table(["", "network", "method", "parameters", *score_columns(scoring), "epochs", "seconds"], rows)
    click.echo(f"Run folder: {folder}")


def _row(role: str, facts: Mapping[str, Any], method: str, scoring: Scoring) -> list[Any]:
    headline = scoring.headline
    return [
        role,
        facts["name"],
        method,
        f"{facts['parameters']:,}",
        number(headline, facts.get(headline.name)),
        number(headline, facts.get(f"best_{headline.name}")),
        *(number(measure, facts.get(measure.name)) for measure in other_measures(scoring)),
        facts.get("epochs", ""),
        f"{facts.get('seconds', 0.0):.0f}",
    ]
