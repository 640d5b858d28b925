"""All methods as a page: what each is, where it is from, and what it reads."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from kdengine.plugins.groups import CATEGORIES

__all__ = ["markdown", "year_of"]

HEAD = """\
# All methods

<!-- made by: kdengine plugins --markdown > docs/methods.md -->

Every method of the first-party plugins, by category; `kdengine plugins show NAME` has its options and presets, and
`kdengine compare --methods GROUP` trains all methods of a [group](comparing.md#groups). *taps* are the
[layers](taps.md) that a method reads, and *needs* is what it requires beyond images and what the networks show
([the contract](writing-a-method.md#the-contract)).
"""
BAR = r"\|"
"""A vertical bar within a cell."""
TITLES = {
    "response": "What the teacher answers",
    "multi-connection": "What its layers show",
    "shared-representation": "What happens between its layers",
    "relational": "How images relate to one another",
}
"""What the student learns from in each category."""


def markdown(methods: Sequence[Mapping[str, Any]]) -> str:
    """The catalogue.

    Args:
        methods: as described by ``kdengine plugins --json``.
    """
    found = {method["category"] for method in methods}
    categories = [*(name for name in CATEGORIES if name in found), *sorted(found - set(CATEGORIES))]
    return "\n".join([HEAD, *(_section(name, [each for each in methods if each["category"] == name]) for name in categories)])


def year_of(source: str) -> int | None:
    """The year of a publication, from the text of a method's source; numbers of preprints are no years.

    >>> year_of("Park, Kim, Lu, Cho, CVPR 2019, arXiv:1904.05068.")
    2019
    """
    years = re.findall(r"\b(?:19|20)\d\d\b(?!\.\d)", source)
    return int(years[0]) if years else None


def _section(category: str, methods: Sequence[Mapping[str, Any]]) -> str:
    title = f"{TITLES[category]}: {category}" if category in TITLES else category or "others"
    columns = ("method", "year", "what it does", "groups", "taps", "needs", "source")
    head = [f"| {' | '.join(columns)} |", f"| {' | '.join('---' for _ in columns)} |"]
    rows = [_row(method) for method in sorted(methods, key=lambda method: str(method["name"]))]
    return "\n".join([f"## {title[0].upper()}{title[1:]}\n", *head, *rows, ""])


def _row(method: Mapping[str, Any]) -> str:
    parts = method.get("methods")
    taps = " + ".join(parts) if parts else ", ".join(f"`{tap}`" for tap in method["taps"])
    needs = ", ".join(f"`{need}`" for need in method["needs"])
    groups = ", ".join(method["groups"])
    year = str(year_of(method["source"]) or "")
    cells = [f"`{method['name']}`", year, method["summary"], groups, taps, needs, method["source"].rstrip(".")]
    return f"| {' | '.join(cell.replace('|', BAR) or '-' for cell in cells)} |"
