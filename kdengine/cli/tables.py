"""Tables for people."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

__all__ = ["print_result", "print_table"]


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str = "") -> None:
    """A table on standard output; numbers are right-aligned, long texts wrap."""
    rows = [["" if cell is None else str(cell) for cell in row] for row in rows]
    table = Table(title=title or None, title_justify="left", box=None, header_style="bold", pad_edge=False)
    for number, column in enumerate(columns):
        numeric = all(_is_number(row[number]) for row in rows)
        words = max((len(word) for word in column.split()), default=0)  # a heading is broken between words only
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
    """Teacher and student of a finished run, last and best."""
    rows = [
        _row(role, facts[role], facts["method"] if role == "student" else "")
        for role in ("teacher", "student")
        if facts.get(role)
    ]
    print_table(["", "network", "method", "parameters", "last top-1 %", "best top-1 %", "top-5 %", "epochs", "seconds"], rows)
    click.echo(f"Run folder: {folder}")


def _row(role: str, facts: Mapping[str, Any], method: str) -> list[Any]:
    def percent(name: str) -> str:
        return "" if facts.get(name) is None else f"{facts[name]:.2f}"

    return [
        role,
        facts["name"],
        method,
        f"{facts['parameters']:,}",
        percent("top1"),
        percent("best_top1"),
        percent("top5"),
        facts.get("epochs", ""),
        f"{facts.get('seconds', 0.0):.0f}",
    ]
