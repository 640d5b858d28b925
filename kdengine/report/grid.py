"""The results of a sweep: a table with a cell for every combination."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdengine.errors import SettingsError, in_shell
from kdengine.report.columns import in_words, number
from kdengine.report.leaderboard import Leaderboard
from kdengine.report.table import Table
from kdengine.storage.axis import Axis, label_of_cell
from kdengine.storage.names import NOTE, PLAIN
from kdengine.storage.reading import read_json
from kdengine.storage.scores import Measure

__all__ = ["Grid", "check_sweep"]


@dataclass(frozen=True)
class Grid:
    """The results of a sweep.

    Attributes:
        axes: the options; the last one runs along the columns.
        board: a row for every cell.
    """

    axes: Sequence[Axis]
    board: Leaderboard

    @classmethod
    def within(cls, folder: str | Path) -> Grid | None:
        """From the folder of a sweep, finished or not; None if the folder holds no sweep.

        Raises:
            SettingsError: it holds runs of different tasks.
        """
        note = _note(folder)
        if not note.get("axes"):
            return None
        axes = [Axis(axis["name"], tuple(axis["values"])) for axis in note["axes"]]
        return cls(axes, Leaderboard.of([folder]))

    @classmethod
    def of(cls, folder: str | Path) -> Grid:
        """From the folder of a sweep, finished or not.

        Raises:
            SettingsError: the folder holds no sweep, or runs of different tasks.
        """
        grid = cls.within(folder)
        if grid is None:
            raise SettingsError(
                f"'{folder}' holds no sweep: that needs a {NOTE} with the axes of a grid. Name a folder of 'kdengine sweep'."
            )
        return grid

    @property
    def headline(self) -> Measure:
        """The measure in the cells."""
        return self.board.scoring.headline

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """The values that name the rows: all combinations but those of the last axis; one empty row for one axis."""
        return list(itertools.product(*(axis.values for axis in self.axes[:-1])))

    def scores(self) -> list[list[float | None]]:
        """Mean last headline score, row by row; None for a cell that failed or is not finished."""
        known: Mapping[str, float | None] = {row["method"]: row[self.headline.name] for row in self.board.rows}
        return [[known.get(label_of_cell(self.axes, (*row, value))) for value in self.axes[-1].values] for row in self.rows]

    def table(self) -> Table:
        """Rows and columns, the best of each column with a star; none in CSV."""
        scores, choose = self.scores(), max if self.headline.higher_is_better else min
        best = [choose((cell for cell in column if cell is not None), default=None) for column in zip(*scores, strict=True)]
        lines, sheet = [], []
        for values, cells in zip(self.rows, scores, strict=True):
            plain = [number(self.headline, cell) for cell in cells]
            starred = [
                text + "*" * (cell is not None and cell == top) for text, cell, top in zip(plain, cells, best, strict=True)
            ]
            lines.append((*values, *starred))
            sheet.append((*values, *plain))
        last = self.axes[-1]
        columns = (*(axis.name for axis in self.axes[:-1]), *map(last.label, last.values))
        caption = self._caption()
        return Table(caption, columns, tuple(lines), Table(caption, columns, tuple(sheet)))

    def _caption(self) -> str:
        name = self.headline.name
        plain = next((row[name] for row in self.board.rows if row["method"] == PLAIN), None)
        known = [("plain student", plain), ("teacher", (self.board.teacher or {}).get(name))]
        references = ", ".join(f"{role} {self.headline.shown(value)}" for role, value in known if value is not None)
        first = f"Last {in_words(self.headline)}, the best of each column with a star; {references or 'no run is finished'}."
        return f"{first} {self.board.caption}"


def check_sweep(folder: str | Path) -> None:
    """Refuse to go on with a comparison as if it were a sweep; a folder that holds neither is let through.

    Raises:
        SettingsError: the folder holds a comparison without a grid.
    """
    note = _note(folder)
    if note and not note.get("axes"):
        raise SettingsError(
            f"'{folder}' holds a comparison, not a sweep: its {NOTE} has no grid. Resume it with: "
            f"kdengine compare --resume {in_shell(folder)}."
        )


def _note(folder: str | Path) -> Mapping[str, Any]:
    """What the folder of a comparison says about it; empty if there is none."""
    file = Path(folder) / NOTE
    return read_json(file) if os.path.isfile(file) else {}  # unlike Path.is_file, false for any odd text
