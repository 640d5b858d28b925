"""Sweeps: every combination of some options as a lane of a comparison, and the table of what they came to."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdengine.comparison import Entry
from kdengine.errors import SettingsError
from kdengine.report.leaderboard import Leaderboard
from kdengine.report.pastrun import NOTE, PLAIN
from kdengine.report.table import Table
from kdengine.settings import parse_assignment

__all__ = ["Axis", "Grid", "cells", "parse_axis"]


@dataclass(frozen=True)
class Axis:
    """One option and the values to try.

    Attributes:
        name: ``st.alpha`` or ``train.lr``.
        values: as text, as they were given.
    """

    name: str
    values: tuple[str, ...]

    def label(self, value: str) -> str:
        """What a cell is called along this axis: ``alpha=0.1``."""
        return f"{self.name.rpartition('.')[2]}={value}"


def parse_axis(text: str) -> Axis:
    """``"st.alpha=0.1,0.5"`` as an axis.

    Raises:
        SettingsError: there is no option or no value.
    """
    name, sign, values = text.partition("=")
    found = tuple(value.strip() for value in values.split(",") if value.strip())
    if not sign or "." not in name.strip(". ") or not found:
        raise SettingsError(f"'{text}' is not a grid. Write METHOD.OPTION=VALUE,VALUE or train.OPTION=VALUE,VALUE.")
    if len(set(found)) < len(found):
        raise SettingsError(f"'{text}' has a value twice.")
    return Axis(name.strip(), found)


def cells(plugins: Sequence[str], axes: Sequence[Axis]) -> list[Entry]:
    """A lane for every combination of the values, the last axis changing fastest.

    Raises:
        SettingsError: there is no axis, or two have one name.
    """
    if not axes:
        raise SettingsError("There is no grid. Write --grid METHOD.OPTION=VALUE,VALUE.")
    if len({axis.name for axis in axes}) < len(axes):
        raise SettingsError("Two grids are for the same option. Give all its values in one.")
    return [_cell(plugins, axes, values) for values in itertools.product(*(axis.values for axis in axes))]


def _cell(plugins: Sequence[str], axes: Sequence[Axis], values: Sequence[str]) -> Entry:
    options: dict[str, dict[str, Any]] = {}
    for axis, value in zip(axes, values, strict=True):
        (method, setting), *_ = parse_assignment(f"{axis.name}={value}").items()
        options.setdefault(method, {}).update(setting)
    train = options.pop("train", {})
    return Entry(_label(axes, values), list(plugins), options, train)


def _label(axes: Sequence[Axis], values: Sequence[str]) -> str:
    return ",".join(axis.label(value) for axis, value in zip(axes, values, strict=True)).replace("/", "_")


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
    def of(cls, folder: str | Path) -> Grid:
        """From the folder of a sweep, finished or not.

        Raises:
            SettingsError: no sweep lies in the folder.
        """
        file = Path(folder) / NOTE
        note = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        if not note.get("axes"):
            raise SettingsError(f"'{folder}' holds no sweep: its {NOTE} names no grid.")
        axes = [Axis(axis["name"], tuple(axis["values"])) for axis in note["axes"]]
        return cls(axes, Leaderboard.of([folder]))

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """The values that name the rows: all combinations but those of the last axis; one empty row for one axis."""
        return list(itertools.product(*(axis.values for axis in self.axes[:-1])))

    def accuracies(self) -> list[list[float | None]]:
        """Mean last top-1 in percent, row by row; None for a cell that failed or is not finished."""
        known: Mapping[str, float | None] = {row["method"]: row["top1"] for row in self.board.rows}
        return [[known.get(_label(self.axes, (*row, value))) for value in self.axes[-1].values] for row in self.rows]

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
