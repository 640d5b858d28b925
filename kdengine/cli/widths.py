"""How wide the columns of a table are, and which of them a narrow terminal can do without."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

__all__ = ["GAP", "NOTES", "Columns"]

GAP = 2
"""Blanks between two columns."""
NOTES = "note"
"""The column that moves below the table."""
FIRST_TO_GO = ("extra parameters", "seconds", "s/epoch", "parameters", "epochs", "trials", "seed")
"""Columns that a narrow terminal does without, in this order; columns of numbers from the right follow."""
NEVER = re.compile(r"last |gain")
"""Columns that the table is about."""
NARROW_TEXT = 24
"""A text wraps within this many characters, if there is no room for more."""
PLAIN = re.compile(r"-?[\d,]*\.?\d*")
"""What is right-aligned."""
NUMBER = re.compile(r"[-+]?\d[\d,.]*\*?(\s.*)?")
"""What is never broken, such as ``39.68``, ``73.17 ± 0.76`` or ``+1.20 [0.30, 2.10]``."""
REMARK = re.compile(r"(\d) \([^)]*\)$")
"""A remark after a number, left out where there is little room."""


@dataclass(frozen=True)
class Columns:
    """A table as text.

    Attributes:
        heads: the titles of the columns.
        rows: their cells.
        below: lines to print below the table.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    below: Sequence[str] = ()

    @property
    def are_numbers(self) -> list[bool]:
        """For each column, whether it is right-aligned."""
        return [all(PLAIN.fullmatch(cell) for cell in cells) for cells in self._columns]

    def column(self, name: str) -> list[str]:
        """The cells of the first column of that name."""
        return [row[list(self.heads).index(name)] for row in self.rows]

    def fitted(self, width: int, keep: Collection[str] = ()) -> Columns:
        """These columns, or as many as fit on a narrow terminal.

        Args:
            width: columns of the terminal.
            keep: columns that are never left out.
        """
        if self._natural <= width:
            return self
        kept = [place for place, cells in enumerate(self._columns) if self.heads[place] in keep or any(cells)]
        table = self._only(kept)
        table = table._with_notes_below()._without_remarks()
        numbers = [name for name, numeric in zip(table.heads, table.are_numbers, strict=True) if numeric]
        for name in (*FIRST_TO_GO, *reversed(numbers)):
            if table._least <= width:
                break
            if name in table.heads[1:] and name not in keep and not NEVER.match(name):
                table = table._without([name])
        return table

    def widths(self, width: int) -> list[int]:
        """The width of each column: texts share what the numbers leave them."""
        widths, wanted = self._smallest(), self._largest()
        room = width - GAP * (len(widths) - 1) - sum(widths)
        while room > 0 and (growing := [index for index, have in enumerate(widths) if have < wanted[index]]):
            for index in growing[:room]:
                widths[index] += 1
            room -= len(growing)
        return widths

    @property
    def _columns(self) -> list[list[str]]:
        """The cells of each column; several may have the same name."""
        return [[row[place] for row in self.rows] for place in range(len(self.heads))]

    @property
    def _natural(self) -> int:
        return sum(self._largest()) + GAP * (len(self.heads) - 1)

    @property
    def _least(self) -> int:
        return sum(self._smallest()) + GAP * (len(self.heads) - 1)

    def _largest(self) -> list[int]:
        return [max(map(len, [name, *cells])) for name, cells in zip(self.heads, self._columns, strict=True)]

    def _smallest(self) -> list[int]:
        """Heads wrap between words; texts too, and within words that are longer than :data:`NARROW_TEXT`."""
        columns = zip(self.heads, self._columns, strict=True)
        return [max([_longest_word(name), *map(_smallest_width, cells), 1]) for name, cells in columns]

    def _without(self, names: Collection[str]) -> Columns:
        return self._only([index for index, name in enumerate(self.heads) if name not in names])

    def _only(self, kept: Sequence[int]) -> Columns:
        rows = [[row[index] for index in kept] for row in self.rows]
        return Columns([self.heads[index] for index in kept], rows, self.below)

    def _with_notes_below(self) -> Columns:
        if NOTES not in self.heads:
            return self
        naming = [place for place, head in enumerate(self.heads) if place == 0 or head == "method"]
        names = [" ".join(filter(None, (row[place] for place in naming))) for row in self.rows]
        below = [f"{name}: {note}" for name, note in zip(names, self.column(NOTES), strict=True) if note]
        return Columns(self.heads, self.rows, below)._without([NOTES])

    def _without_remarks(self) -> Columns:
        rows = [[REMARK.sub(r"\1", cell) if NUMBER.fullmatch(cell) else cell for cell in row] for row in self.rows]
        return Columns(self.heads, rows, self.below)


def _smallest_width(cell: str) -> int:
    """A number in one piece; of a text, its longest word."""
    return len(cell) if NUMBER.fullmatch(cell) and len(cell) <= NARROW_TEXT else min(_longest_word(cell), NARROW_TEXT)


def _longest_word(text: str) -> int:
    return max(map(len, text.split()), default=0)
