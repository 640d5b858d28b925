"""The picture of a comparison: what every method gains over the plain student, how sure that is, and what its steps cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdengine.report.drawing import dress, new_figure, plain_text
from kdengine.report.leaderboard import Leaderboard
from kdengine.report.palette import GRID, GROUND, INK, LINES, MUTED
from kdengine.report.standing import Entrant, standings
from kdengine.report.wording import signed_number
from kdengine.storage.scores import Measure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Gains", "draw_gains"]

MOST = 14
"""Methods of a student that are drawn, the best ones; the table has all."""
WIDTH, ROW, FRAME = 4.6, 0.28, 0.9
"""Of the figure, in inches: its width, a row, and what stands above and below the rows."""
LONGEST = 26
"""Letters of a label; a longer one is cut short."""
GAIN, LOSS, OPEN = LINES[0], LINES[1], MUTED
"""Colours of a gain, of a loss, and of what may be either."""


def draw_gains(folders: Sequence[str | Path]) -> Figure | None:
    """Gains and costs of every method; None unless the one folder is a comparison in which something is known of either.

    Raises:
        SettingsError: the folder holds no run, or the runs have different tasks.
    """
    board = Leaderboard.of_comparison(folders)
    gains = None if board is None else Gains.of(board)
    return None if gains is None else gains.figure()


@dataclass(frozen=True)
class Gains:
    """What every method gains and costs.

    Attributes:
        measure: what the methods are judged by.
        groups: the label of each student, empty for one student, with its methods, the best first.
        left_out: how many methods are not drawn.
        has_baseline: whether the plain student of every group is one.
    """

    measure: Measure
    groups: Sequence[tuple[str, Sequence[Entrant]]]
    left_out: int
    has_baseline: bool

    @classmethod
    def of(cls, board: Leaderboard) -> Gains | None:
        """From a board; None if no gain is known."""
        every = [(label, standing.ranked + standing.unranked) for label, standing in standings(board)]
        every = [(label, entrants) for label, entrants in every if entrants]
        if not any(one.gain for _, entrants in every for one in entrants):
            return None
        left_out = sum(max(0, len(entrants) - MOST) for _, entrants in every)
        boards = list(board.students.values()) or [board]
        has_baseline = not any(one.verdict.no_baseline for one in boards)
        return cls(board.scoring.headline, [(label, entrants[:MOST]) for label, entrants in every], left_out, has_baseline)

    @property
    def title(self) -> str:
        """What it shows."""
        return f"Gain in {self.measure.label} over the plain student, and duration of a step"

    @property
    def note(self) -> str:
        """What its marks mean, as far as they are there."""
        drawn = [one for _, entrants in self.groups for one in entrants]
        several = any(one.ends for one in drawn)
        better = "" if self.measure.higher_is_better else f" A lower {self.measure.label} is better, and counts as a gain."
        marks = (
            " Whiskers: 95 % interval, paired by trial, by Student's t, not corrected for choosing among the rows. A hollow "
            "point may be no gain at all."
            if several
            else " One trial: no interval."
        )
        left_out = f" {self.left_out} more are in the table." if self.left_out else ""
        step = " A step is timed without the teacher's forward, which all lanes share." if any(o.step for o in drawn) else ""
        return f"{better}{marks}{step}{left_out}".strip()

    def figure(self) -> Figure:
        """The whole picture: a row for each method, gains on the left and costs on the right."""
        rows = self._rows()
        figure = new_figure(WIDTH, FRAME + ROW * len(rows), dpi=160)
        costs = any(isinstance(row, Entrant) and row.step for row in rows)
        panels = figure.subplots(1, 2, width_ratios=[2.6, 1], sharey=True, squeeze=False)[0] if costs else [figure.subplots()]
        for panel in panels:
            dress(panel, "", small=True)
            panel.grid(visible=False)
            panel.set_ylim(len(rows) - 0.4, -0.6)
        self._draw_labels(panels[0], rows)
        self._draw_gains(panels[0], rows)
        if costs:
            _draw_costs(panels[1], rows)
        return figure

    def _rows(self) -> list[Entrant | str]:
        """A line for each method, below one for its student if there are several."""
        return [row for label, entrants in self.groups for row in ([label] if label else []) + list(entrants)]

    def _draw_labels(self, axes: Axes, rows: Sequence[Entrant | str]) -> None:
        axes.set_yticks(range(len(rows)), [plain_text(_short(row)) for row in rows])
        for tick, row in zip(axes.get_yticklabels(), rows, strict=True):
            tick.set_color(INK)
            tick.set_fontsize(9)
            tick.set_fontweight("bold" if isinstance(row, str) else "normal")

    def _draw_gains(self, axes: Axes, rows: Sequence[Entrant | str]) -> None:
        axes.axvline(0, color=MUTED, linewidth=1.2, zorder=1)
        for place, row in enumerate(rows):
            if not isinstance(row, Entrant):
                continue
            if row.gain is None:
                axes.annotate(row.state or "no score", (0, place), (4, 0), textcoords="offset points", **_small_text())
                continue
            self._draw_gain(axes, place, row)
        low, high = _range([row for row in rows if isinstance(row, Entrant)])
        axes.set_xlim(low, high)
        unit = "points" if self.measure.unit == "%" else self.measure.unit
        label = f"gain in {self.measure.label}{f', {unit}' if unit else ''}{'' if self.has_baseline else ' (no baseline!)'}"
        axes.set_xlabel(label, fontsize=8.5, color=MUTED)

    def _draw_gain(self, axes: Axes, place: int, row: Entrant) -> None:
        assert row.gain is not None
        gain = row.gain
        colour = GAIN if gain.is_gain else LOSS if gain.is_loss else OPEN
        colour = colour if self.has_baseline else OPEN
        if row.ends is not None:
            axes.plot(row.ends, (place, place), color=colour, linewidth=1.7, solid_capstyle="butt", gid=f"interval-{place}")
        fill = colour if gain.is_gain or gain.is_loss else GROUND
        mark: dict[str, Any] = {"markersize": 6.5, "markeredgecolor": colour, "markerfacecolor": fill, "markeredgewidth": 1.6}
        axes.plot([gain.mean], [place], "o", gid=f"gain-{place}", **mark)
        text = signed_number(self.measure, gain.mean)
        behind = {"facecolor": GROUND, "edgecolor": "none", "pad": 0.4}  # the line at zero must not run through it
        look = {**_small_text(), "textcoords": "offset points", "bbox": behind}
        axes.annotate(text, (gain.mean, place), (0, 4.6), ha="center", va="bottom", zorder=1.5, **look)


def _draw_costs(axes: Axes, rows: Sequence[Entrant | str]) -> None:
    """A bar from the plain student's step, which takes 1."""
    known = [(place, row.step) for place, row in enumerate(rows) if isinstance(row, Entrant) and row.step is not None]
    longest = max(step for _, step in known)
    axes.axvline(1, color=MUTED, linewidth=1.2, zorder=3)
    for place, step in known:
        axes.barh(place, step, height=0.5, color=GRID, gid=f"step-{place}")
        axes.annotate(f"{step:.2f}", (max(step, 1.0), place), (3, 0), textcoords="offset points", va="center", **_small_text())
    axes.set_xlim(0, 1.6 * max(1.0, longest))
    axes.set_xticks([1], ["plain"])
    axes.tick_params(axis="y", labelleft=False)
    axes.set_xlabel("step time", fontsize=8.5, color=MUTED)


def _range(entrants: Sequence[Entrant]) -> tuple[float, float]:
    """Both ends of the axis of gains, the same for all students; zero is on it."""
    means = [one.gain.mean for one in entrants if one.gain]
    ends = [end for one in entrants for end in one.ends or ()]
    low, high = min([0.0, *means, *ends]), max([0.0, *means, *ends])
    room = 0.08 * (high - low) or 1.0
    return low - room, high + room


def _short(row: Entrant | str) -> str:
    text = row if isinstance(row, str) else row.label
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}"


def _small_text() -> dict[str, Any]:
    return {"fontsize": 8, "color": MUTED}
