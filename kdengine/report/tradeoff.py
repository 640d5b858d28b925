"""The picture of a comparison of several students: how good each is with each method, over how long it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from kdengine.report.columns import axis_label
from kdengine.report.drawing import Style, dress, new_figure, plain_text
from kdengine.report.leaderboard import Leaderboard
from kdengine.report.palette import DASHES, GROUND, INK, LINES, MUTED, PLAIN
from kdengine.storage.names import PLAIN as PLAIN_LANE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Tradeoff", "draw_tradeoff"]

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
"""One for each student; further students have the first ones again."""
TEACHER = "*"
ROOM = 1.35
"""How far the horizontal axis goes beyond the quickest and the slowest network, as a factor."""
TICKS = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)


class Point(NamedTuple):
    """A student taught by a method: its milliseconds, its last score, and one standard deviation of that over the trials."""

    student: str
    latency: float
    score: float
    spread: float


def draw_tradeoff(folders: Sequence[str | Path]) -> Figure | None:
    """Score over latency; None unless the one folder is a comparison of several students that were measured.

    Raises:
        SettingsError: the folder holds no run, or the runs have different tasks.
    """
    board = Leaderboard.of_comparison(folders)
    tradeoff = None if board is None else Tradeoff.of(board)
    return None if tradeoff is None else tradeoff.figure()


@dataclass(frozen=True)
class Tradeoff:
    """Score over latency of every student with every method.

    Attributes:
        board: of several students.
        lines: method -> its points, the quickest student first.
    """

    board: Leaderboard
    lines: dict[str, list[Point]]

    @classmethod
    def of(cls, board: Leaderboard) -> Tradeoff | None:
        """From a board; None if it has one student, or if no latency is known."""
        name, lines = board.scoring.headline.name, dict[str, list[Point]]()
        for row in board.rows if board.students else ():
            if row["latency_ms"] is not None and row[name] is not None:
                point = Point(row["student"], row["latency_ms"], row[name], row[f"{name}_std"] or 0.0)
                lines.setdefault(row["method"], []).append(point)
        if not lines:
            return None
        methods = sorted(lines, key=lambda method: method != PLAIN_LANE)
        return cls(board, {method: sorted(lines[method], key=lambda point: point.latency) for method in methods})

    @property
    def title(self) -> str:
        """What it shows."""
        return f"Last test {self.board.scoring.headline.label} over latency"

    @cached_property
    def markers(self) -> dict[str, str]:
        """Student -> its marker."""
        students = [label for label in self.board.students if any(p.student == label for ps in self.lines.values() for p in ps)]
        return {label: MARKERS[number % len(MARKERS)] for number, label in enumerate(students)}

    @cached_property
    def styles(self) -> dict[str, Style]:
        """Method -> its line; the plain student is dark grey."""
        others = [method for method in self.lines if method != PLAIN_LANE]
        styles = {method: _style(number) for number, method in enumerate(others)}
        return {**styles, **({PLAIN_LANE: Style(PLAIN, width=2.2)} if PLAIN_LANE in self.lines else {})}

    def figure(self, narrow: bool = False) -> Figure:
        """The whole picture, with a legend of methods and students.

        Args:
            narrow: no title, and the legend below, so that it can be read on a narrow screen.
        """
        entries = len(self.lines) + len(self.markers) + (self.board.teacher is not None)
        figure = new_figure(5.4, 3.5 + 0.1 * (entries + 1)) if narrow else new_figure(8.4, 4.2, dpi=120)
        axes = figure.add_subplot()
        dress(axes, "" if narrow else self.title)
        for number, (method, points) in enumerate(self.lines.items()):
            self._draw_line(axes, number, self.styles[method], points)
        self._draw_teacher(axes)
        axes.set_ylabel(axis_label(self.board.scoring.headline), fontsize=9.5, color=MUTED)
        self._set_latency(axes)
        self._draw_legend(figure, narrow)
        return figure

    def _draw_line(self, axes: Axes, number: int, style: Style, points: Sequence[Point]) -> None:
        latencies, scores = [point.latency for point in points], [point.score for point in points]
        axes.plot(latencies, scores, gid=f"method-{number}", **style.line)
        for point in points:
            look: dict[str, Any] = {"marker": self.markers[point.student], "markersize": 7, "color": style.colour}
            look |= {"markeredgecolor": GROUND, "linestyle": "none", "elinewidth": 0.9, "capsize": 2.5}
            axes.errorbar([point.latency], [point.score], yerr=point.spread or None, **look)

    def _draw_teacher(self, axes: Axes) -> None:
        """A line at its score, and a star at its latency, as far as they are known."""
        teacher = self.board.teacher or {}
        score, latency = teacher.get(self.board.scoring.headline.name), teacher.get("latency_ms")
        if score is None:
            return
        axes.axhline(score, color=MUTED, linestyle=(0, (6, 3)), linewidth=1.2, zorder=1)
        if latency is not None:
            axes.plot([latency], [score], marker=TEACHER, markersize=13, color=MUTED, linestyle="none", gid="teacher")

    def _set_latency(self, axes: Axes) -> None:
        """A logarithmic horizontal axis."""
        from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

        teacher = (self.board.teacher or {}).get("latency_ms")
        known = [point.latency for points in self.lines.values() for point in points] + ([] if teacher is None else [teacher])
        axes.set_xscale("log")
        axes.set_xlim(min(known) / ROOM, max(known) * ROOM)
        axes.xaxis.set_major_locator(LogLocator(subs=TICKS, numticks=12))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_xlabel("latency of one image, ms (logarithmic)", fontsize=9.5, color=MUTED)

    def _draw_legend(self, figure: Figure, below: bool) -> None:
        from matplotlib.lines import Line2D

        handles = [Line2D([], [], **self.styles[method].line) for method in self.lines]
        labels = list(self.lines)
        teacher = self.board.teacher
        if teacher is not None:
            handles.append(Line2D([], [], color=MUTED, linestyle=(0, (6, 3)), linewidth=1.2, marker=TEACHER, markersize=9))
            labels.append(f"{teacher['name']}, the teacher")
        for label, marker in self.markers.items():
            handles.append(Line2D([], [], color=INK, marker=marker, linestyle="none", markersize=6))
            labels.append(label)
        place: dict[str, Any] = {"loc": "outside lower left", "ncols": 2} if below else {"loc": "outside right upper"}
        place |= {"alignment": "left", "frameon": False, "handlelength": 2.6}
        figure.legend(handles, [plain_text(label) for label in labels], fontsize=9, labelcolor=INK, **place)


def _style(number: int) -> Style:
    return Style(LINES[number % len(LINES)], DASHES[number // len(LINES) % len(DASHES)])
