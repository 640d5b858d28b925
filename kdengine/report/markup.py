"""Pieces of HTML; every text in them is escaped here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape

__all__ = ["figure", "heat_table", "shared_list", "table", "tag", "text"]

NUMBER = re.compile(r"[-+\u2212]?\d[\d,]*(\.\d+)?(\s.*)?")
"""A cell that begins with a number, such as ``39.68``, ``83,892`` or ``+1.2 (0.3 to 2.1)``."""
LONG = 32
"""Longer cells may wrap."""
DEEPEST = 55
"""Percent of colour behind the highest number of a coloured table; more would make it hard to read."""


def text(value: object) -> str:
    """Any value as escaped text; lists without brackets."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return ", ".join(map(text, value))
    return escape(str(value))


def tag(name: str, content: str, **attributes: str) -> str:
    """An element around content that is already HTML; ``class_`` is the attribute ``class``."""
    said = "".join(f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"' for key, value in attributes.items() if value)
    return f"<{name}{said}>{content}</{name}>"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], sortable: bool = False) -> str:
    """A table in a box that scrolls by itself; in one to be sorted, columns of numbers are right-aligned."""
    kinds = [_kind([row[place] for row in rows], sortable) for place in range(len(columns))]
    heads = "".join(tag("th", _unbroken(name), class_=kind, scope="col") for name, kind in zip(columns, kinds, strict=True))
    body = "\n".join(
        tag("tr", "".join(tag("td", text(cell), class_=kind) for cell, kind in zip(row, kinds, strict=True))) for row in rows
    )
    inner = f"<thead>{tag('tr', heads)}</thead>\n<tbody>\n{body}\n</tbody>"
    return tag("div", tag("table", inner, class_="sortable" if sortable else ""), class_="scroll", tabindex="0", role="region")


def heat_table(
    names: Sequence[str], over: str, columns: Sequence[str], rows: Sequence[tuple[Sequence[str], Sequence[float | None]]]
) -> str:
    """A table of numbers, the higher the deeper in colour.

    Args:
        names: heads of the columns that name the rows.
        over: what stands over all other columns.
        columns: their heads.
        rows: the names of a row, and its numbers; None is an empty cell.
    """
    known = [value for _, values in rows for value in values if value is not None]
    low, high = (min(known), max(known)) if known else (0.0, 0.0)
    first = "".join(tag("th", text(name), scope="col", rowspan="2") for name in names)
    first += tag("th", text(over), scope="colgroup", colspan=str(len(columns)))
    second = "".join(tag("th", text(name), scope="col", class_="value") for name in columns)
    body = "\n".join(
        tag("tr", _names(named) + "".join(_heated(value, low, high) for value in values)) for named, values in rows
    )
    inner = f"<thead>{tag('tr', first)}{tag('tr', second)}</thead>\n<tbody>\n{body}\n</tbody>"
    return tag("div", tag("table", inner, class_="heat"), class_="scroll", tabindex="0", role="region")


def _names(named: Sequence[str]) -> str:
    return "".join(tag("th", text(name), scope="row") for name in named)


def _heated(value: float | None, low: float, high: float) -> str:
    if value is None:
        return "<td></td>"
    depth = DEEPEST * (value - low) / (high - low) if high > low else 0.0
    number = f"<b>{value:.2f}</b>" if value == high else f"{value:.2f}"
    colour = f"background: color-mix(in oklab, var(--line-1) {depth:.0f}%, var(--ground))"
    return tag("td", number, style=colour)


def shared_list(facts: Mapping[str, object]) -> str:
    """Names and values in columns."""
    lines: Iterable[str] = (f"<li><span>{text(name)}</span><span>{text(value)}</span></li>" for name, value in facts.items())
    return tag("ul", "\n".join(lines), class_="shared")


def figure(svg: str, caption: str = "") -> str:
    """A picture with its title above."""
    return tag("figure", (tag("h3", text(caption)) if caption else "") + svg)


def _unbroken(name: str) -> str:
    """The name of a column, to be broken between its words only: not in ``top-1 %``."""
    return text(name).replace("-", "\N{NON-BREAKING HYPHEN}").replace(" %", "\N{NO-BREAK SPACE}%")


def _kind(cells: Sequence[str], sortable: bool) -> str:
    """The class of a column."""
    said = [cell for cell in cells if cell]
    if sortable and said and all(NUMBER.fullmatch(cell) for cell in said):
        return "number"
    return "long" if any(len(cell) > LONG for cell in said) else "text"
