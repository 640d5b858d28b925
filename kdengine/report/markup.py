"""Building blocks of HTML; all text in them is escaped here."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from html import escape

__all__ = ["figure", "heat_table", "shared_list", "table", "tag", "text"]

NUMBER = re.compile(r"[-+\u2212]?\d[\d,]*(\.\d+)?(\s.*)?")
"""A cell that starts with a number, such as ``39.68``, ``83,892`` or ``+1.2 (0.3 to 2.1)``."""
LONG = 32
"""Longer cells may wrap."""
DEEPEST = 55
"""Percent of colour behind the best number of a coloured table; more would make it hard to read."""


def text(value: object) -> str:
    """Any value as escaped text, lists without brackets."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return ", ".join(map(text, value))
    return escape(str(value))


def tag(name: str, content: str, **attributes: str) -> str:
    """An element around content that is already HTML; ``class_`` is the attribute ``class``, empty attributes are left out."""
    written = "".join(f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"' for key, value in attributes.items() if value)
    return f"<{name}{written}>{content}</{name}>"


def table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], sortable: bool = False, low_is_best: Collection[str] = ()
) -> str:
    """A table in a scrolling box.

    Args:
        columns: their heads.
        rows: their cells.
        sortable: whether a click on a head sorts the rows; columns of numbers are then right-aligned.
        low_is_best: the columns that a click sorts in ascending order first; other numbers are sorted in descending order.
    """
    kinds = [_kind([row[index] for row in rows], sortable) for index in range(len(columns))]
    heads = "".join(
        tag("th", _unbroken(name), class_=kind, scope="col", data_first="ascending" if name in low_is_best else "")
        for name, kind in zip(columns, kinds, strict=True)
    )
    body = "\n".join(
        tag("tr", "".join(tag("td", text(cell), class_=kind) for cell, kind in zip(row, kinds, strict=True))) for row in rows
    )
    inner = f"<thead>{tag('tr', heads)}</thead>\n<tbody>\n{body}\n</tbody>"
    return tag("div", tag("table", inner, class_="sortable" if sortable else ""), class_="scroll", tabindex="0", role="region")


def heat_table(
    names: Sequence[str],
    over: str,
    columns: Sequence[str],
    rows: Sequence[tuple[Sequence[str], Sequence[float | None]]],
    number: Callable[[float], str] = "{:.2f}".format,
    high_is_best: bool = True,
) -> str:
    """A table of numbers, the better the deeper in colour.

    Args:
        names: heads of the columns that name the rows.
        over: the head above all other columns.
        columns: their heads.
        rows: the names of a row, and its numbers; None is an empty cell.
        number: writes a number.
        high_is_best: whether the highest number is the best one, else the lowest.
    """
    known = [value for _, values in rows for value in values if value is not None]
    worst, best = (min(known), max(known)) if known else (0.0, 0.0)
    if not high_is_best:
        worst, best = best, worst
    first = "".join(tag("th", text(name), scope="col", rowspan="2") for name in names)
    first += tag("th", text(over), scope="colgroup", colspan=str(len(columns)))
    second = "".join(tag("th", text(name), scope="col", class_="value") for name in columns)
    body = "\n".join(
        tag("tr", _names(named) + "".join(_heated(value, worst, best, number) for value in values)) for named, values in rows
    )
    inner = f"<thead>{tag('tr', first)}{tag('tr', second)}</thead>\n<tbody>\n{body}\n</tbody>"
    return tag("div", tag("table", inner, class_="heat"), class_="scroll", tabindex="0", role="region")


def _names(named: Sequence[str]) -> str:
    return "".join(tag("th", text(name), scope="row") for name in named)


def _heated(value: float | None, worst: float, best: float, number: Callable[[float], str]) -> str:
    if value is None:
        return "<td></td>"
    depth = DEEPEST * abs(value - worst) / abs(best - worst) if best != worst else 0.0
    cell = f"<b>{number(value)}</b>" if value == best else number(value)
    colour = f"background: color-mix(in oklab, var(--line-1) {depth:.0f}%, var(--ground))"
    return tag("td", cell, style=colour)


def shared_list(facts: Mapping[str, object]) -> str:
    """Names and values in columns."""
    lines: Iterable[str] = (f"<li><span>{text(name)}</span><span>{text(value)}</span></li>" for name, value in facts.items())
    return tag("ul", "\n".join(lines), class_="shared")


def figure(svg: str, caption: str = "") -> str:
    """A picture with its title above."""
    return tag("figure", (tag("h3", text(caption)) if caption else "") + svg)


def _unbroken(name: str) -> str:
    """The head of a column, which may wrap between words only, not within ``top-1 %``."""
    return text(name).replace("-", "\N{NON-BREAKING HYPHEN}").replace(" %", "\N{NO-BREAK SPACE}%")


def _kind(cells: Sequence[str], sortable: bool) -> str:
    """The class of a column."""
    filled = [cell for cell in cells if cell]
    if sortable and filled and all(NUMBER.fullmatch(cell) for cell in filled):
        return "number"
    return "long" if any(len(cell) > LONG for cell in filled) else "text"
