"""Tables on the terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kdengine.report.columns import number, other_measures, score_columns
from kdengine.storage.scores import Scoring

__all__ = ["print_result", "print_table"]


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str = "") -> None:
    """Print a table on standard output; numbers are right-aligned, long texts wrap."""
    rows = [["" if cell is None else str(cell) for cell in row] for row in rows]
    table = Table(title=title or None, title_justify="left", box=None, header_style="bold", pad_edge=False)
    for index, column in enumerate(columns):
        numeric = all(_is_number(row[index]) for row in rows)
        words = max((len(word) for word in column.split()), default=0)  # a heading wraps between words only
        table.add_column(escape(column), justify="right" if numeric else "left", overflow="fold", min_width=words)
    for row in rows:
        table.add_row(*map(escape, row))
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 160
    console.print(table)


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-?[\d,]*\.?\d*", text) is not None


def print_result(facts: Mapping[str, Any], folder: str) -> None:
    """Print teacher and student of a finished run, last and best.

    Args:
        facts: as in ``result.json``.
        folder: the run folder.
    """
    from kdengine.report.pastrun import scoring_in

    scoring = scoring_in(facts)
    rows = [
        _row(role, facts[role], facts["method"] if role == "student" else "", scoring)
        for role in ("teacher", "student")
        if facts.get(role)
    ]
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
