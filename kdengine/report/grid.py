"""What a sweep came to: a table with a cell for every combination."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdengine.errors import SettingsError
from kdengine.report.leaderboard import Leaderboard
from kdengine.report.table import Table
from kdengine.storage.axis import Axis, label_of_cell
from kdengine.storage.names import NOTE, PLAIN
from kdengine.storage.reading import read_json

__all__ = ["Grid"]


@dataclass(frozen=True)
class Grid:
    """What a sweep came to.

    Attributes:
        axes: the options; the last one runs along the columns.
        board: a row for every cell.
    """

    axes: Sequence[Axis]
    board: Leaderboard

    @classmethod
    def within(cls, folder: str | Path) -> Grid | None:
        """From the folder of a sweep, finished or not; None where no sweep lies in it."""
        file = Path(folder) / NOTE
        note = read_json(file) if file.is_file() else {}
        if not note.get("axes"):
            return None
        axes = [Axis(axis["name"], tuple(axis["values"])) for axis in note["axes"]]
        return cls(axes, Leaderboard.of([folder]))

    @classmethod
    def of(cls, folder: str | Path) -> Grid:
        """From the folder of a sweep, finished or not.

        Raises:
            SettingsError: no sweep lies in the folder.
        """
        found = cls.within(folder)
        if found is None:
            raise SettingsError(f"'{folder}' holds no sweep: its {NOTE} names no grid.")
        return found

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """The values that name the rows: all combinations but those of the last axis; one empty row for one axis."""
        return list(itertools.product(*(axis.values for axis in self.axes[:-1])))

    def accuracies(self) -> list[list[float | None]]:
        """Mean last top-1 in percent, row by row; None for a cell that failed or is not finished."""
        known: Mapping[str, float | None] = {row["method"]: row["top1"] for row in self.board.rows}
        return [[known.get(label_of_cell(self.axes, (*row, value))) for value in self.axes[-1].values] for row in self.rows]

    def table(self) -> Table:
        """Rows and columns, the best of each column with a star."""
        found = self.accuracies()
        best = [max((cell for cell in column if cell is not None), default=None) for column in zip(*found, strict=True)]
        lines = []
        for values, accuracies in zip(self.rows, found, strict=True):
            lines.append((*values, *(_marked(cell, top) for cell, top in zip(accuracies, best, strict=True))))
        last = self.axes[-1]
        names = [axis.name for axis in self.axes[:-1]]
        return Table(self._caption(), (*names, *map(last.label, last.values)), tuple(lines))

    def _caption(self) -> str:
        plain = next((row["top1"] for row in self.board.rows if row["method"] == PLAIN), None)
        teacher = (self.board.teacher or {}).get("top1")
        known = [("plain student", plain), ("teacher", teacher)]
        said = ", ".join(f"{name} {value:.2f} %" for name, value in known if value is not None)
        first = f"Last top-1 in percent, the best of each column with a star; {said or 'no run is finished'}."
        return f"{first} {self.board.caption}"


def _marked(cell: float | None, best: float | None) -> str:
    if cell is None:
        return ""
    return f"{cell:.2f}*" if cell == best else f"{cell:.2f}"
