"""Plots over epochs: the scores of all methods in one panel, and the loss terms of each method."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdengine.report.columns import axis_label, decimals, number
from kdengine.report.drawing import draw_mean, dress, new_figure, plain_text, styles_of
from kdengine.report.palette import GROUND, INK, MUTED
from kdengine.report.pastrun import FAILED, FINISHED, UNFINISHED, PastRun, find_runs
from kdengine.report.series import Curve, Series, series_of
from kdengine.report.terms import Terms
from kdengine.storage.scores import Measure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

__all__ = ["Plot", "draw_curves"]

TEST, TRAIN = "test", "train"
FEW = 15
"""Up to this many epochs, each is marked by a point."""
LONG = 20
"""From this many epochs on, the vertical axis leaves out the first part of the curves."""
COLUMNS = 4
PANEL = 2.4
"""Inches of a row of panels of loss terms."""
ENDS: Mapping[str, Mapping[str, Any]] = {
    FINISHED: {"marker": "o", "markersize": 5},
    UNFINISHED: {"marker": "o", "markersize": 5},
    FAILED: {"marker": "X", "markersize": 6.5},
}
"""Marker at the end of a line, by the state of its runs."""


def draw_curves(folders: Sequence[str | Path]) -> Figure:
    """The scores of all methods on test and training images, and the loss terms of each, in one figure.

    Args:
        folders: run folders, or folders with run folders below them.

    Raises:
        SettingsError: a folder holds no run, or the runs have different tasks.
    """
    return Plot(find_runs(folders)).everything()


class Plot:
    """All figures over some runs.

    Args:
        runs: in any state, all of one task.

    Raises:
        SettingsError: the runs have different tasks.
    """

    def __init__(self, runs: Sequence[PastRun]) -> None:
        self.series = series_of(runs)
        self.headline = self.series[0].headline
        self.styles = styles_of(self.series)
        self.loss = Terms(self.series)
        self.teachers = _teachers(runs, self.headline)

    @property
    def ranked(self) -> list[int]:
        """Numbers of the series, the best last score first, the training of teachers at the end."""
        return sorted(range(len(self.series)), key=lambda index: self.series[index].rank)

    @property
    def with_terms(self) -> list[int]:
        """Numbers of the series that have loss terms, ranked."""
        return [index for index in self.ranked if self.series[index].terms()]

    @property
    def trials(self) -> int:
        """The largest number of runs in a series."""
        return max(len(series.runs) for series in self.series)

    @property
    def key(self) -> str:
        """What the numbers in the legend are."""
        mean = f", mean of {self.trials} trials" if self.trials > 1 else ""
        return f"last test {axis_label(self.headline)}{mean}"

    def title(self, split: str) -> str:
        """Title of a panel of scores: ``Test top-1, %``."""
        images = {TEST: "Test", TRAIN: "Training"}[split]
        return f"{images} {axis_label(self.headline)}"

    def everything(self) -> Figure:
        """Both panels of scores with a legend, and the terms of every series: beside the scores for one series, else below."""
        below = self.with_terms if len(self.with_terms) > 1 else []
        rows = math.ceil(len(below) / COLUMNS)
        top = max(3.9, 0.19 * (len(self.series) + len(self.teachers)) + 0.5)
        figure = new_figure(13.2, top + PANEL * rows, dpi=120)
        upper, lower = (
            figure.subfigures(2, 1, height_ratios=[top, PANEL * rows], squeeze=False).flat if rows else (figure, None)
        )
        if lower is None and self.with_terms:
            *panels, beside = upper.subplots(1, 3)
            self.loss.draw(beside, self.series[self.with_terms[0]], "Terms of the loss")
        else:
            panels = upper.subplots(1, 2, width_ratios=[1.45, 1])
        for panel, split in zip(panels, (TEST, TRAIN), strict=True):
            self.draw_scores(panel, split, self.title(split))
        self._draw_legend(upper)
        for index, panel in enumerate(lower.subplots(rows, COLUMNS, squeeze=False).flat if lower is not None else ()):
            if index < len(below):
                self.loss.draw(panel, self.series[below[index]], self.series[below[index]].label, small=True)
            else:
                panel.set_axis_off()
        return figure

    def scores(self, split: str) -> Figure:
        """One panel of scores alone, ``test`` or ``train``, without a legend."""
        figure = new_figure(5.1, 3.4)
        self.draw_scores(figure.add_subplot(), split)
        return figure

    def terms(self, index: int) -> Figure:
        """The loss terms of one series alone."""
        return self.loss.figure(self.series[index])

    def draw_scores(self, axes: Axes, split: str, title: str = "") -> None:
        """Curves of all series; on test images, the teachers as horizontal lines."""
        dress(axes, title)
        edge = self._edge()
        for index, series in enumerate(self.series):
            self._draw_series(axes, index, series.scores(split), edge)
        if split == TEST:
            for score in self.teachers.values():
                axes.axhline(score, color=MUTED, linestyle=(0, (6, 3)), linewidth=1.2, zorder=1)
        self._set_epochs(axes, split)
        axes.set_ylim(*self._range(edge))

    def _draw_series(self, axes: Axes, index: int, curve: Curve, edge: float | None) -> None:
        """A line with its band, and at its end a point: solid, hollow if unfinished, a cross if failed."""
        if not curve.epochs:
            return
        series, style = self.series[index], self.styles[index]
        order = {"method": 3.0, "plain": 2.5, "teacher": 2.0}[series.role]
        marks = {"marker": ".", "markersize": 4.5} if len(curve.epochs) <= FEW else {}
        line = {**style.line, **marks, "zorder": order}
        draw_mean(axes, curve, line, gid=f"s{index}", shade=0.16 if len(self.series) <= FEW else 0.09)
        if series.role == "teacher":
            return
        axes.plot(
            curve.epochs[-1:],
            [curve.mean[-1] if edge is None or self.headline.better(curve.mean[-1], edge) else edge],
            **ENDS[series.state],
            markerfacecolor=GROUND if series.state == UNFINISHED else style.colour,
            markeredgecolor=style.colour,
            linestyle="none",
            clip_on=False,
            zorder=order + 1,
            gid=f"s{index}-end",
        )

    def _students(self, split: str) -> list[tuple[Series, Curve]]:
        curves = [(series, series.scores(split)) for series in self.series if series.role != "teacher"]
        return [(series, curve) for series, curve in curves if curve.epochs]

    def _edge(self) -> float | None:
        """The worse end of the vertical axis, chosen so that the ends of long curves can be told apart on both splits.

        That is the bottom of the axis, or its top if a low score is the better one; None shows the whole curves.
        """
        ends = [self._end_of(split) for split in (TEST, TRAIN) if self._students(split)]
        known = [end for end in ends if end is not None]
        if not known or len(known) < len(ends):
            return None
        return min(known) if self.headline.higher_is_better else max(known)

    def _range(self, edge: float | None) -> tuple[float, float]:
        """Bottom and top of the vertical axis of both splits, so that test and training can be compared."""
        curves = [curve for split in (TEST, TRAIN) for _, curve in self._students(split)]
        values = [value for curve in curves for value in (*curve.low, *curve.high)] + list(self.teachers.values())
        low, high = (min(values), max(values)) if values else (0.0, 1.0)
        if edge is not None:
            low, high = (edge, high) if self.headline.higher_is_better else (low, edge)
        room = 0.04 * (high - low) or 0.5
        return (low if edge == low else low - room), (high if edge == high else high + room)

    def _end_of(self, split: str) -> float | None:
        """The worse end that suits one split; None for all of its curves."""
        sign = 1 if self.headline.higher_is_better else -1
        students = self._students(split)
        longest = max((curve.epochs[-1] for _, curve in students), default=0)
        whole = [curve.mean for series, curve in students if curve.epochs[-1] > longest / 2 and not series.failed]
        if longest < LONG or not whole:
            return None
        late = [sign * value for mean in whole for value in mean[-max(1, len(mean) // 4) :]]
        narrowest = 1.0 if self.headline.unit == "%" else 0.01 * max(map(abs, late))
        floor = min(late) - 0.8 * max(max(late) - min(late), narrowest)
        return sign * floor if floor > min(sign * value for _, curve in students for value in curve.mean) else None

    def _set_epochs(self, axes: Axes, split: str) -> None:
        """The epochs of the students, because a teacher may have trained for longer."""
        longest = max((curve.epochs[-1] for _, curve in self._students(split)), default=0)
        if longest:
            axes.set_xlim(0.5 if longest <= FEW else 0, longest + max(0.5, longest / 60))

    def _draw_legend(self, figure: Figure | SubFigure) -> None:
        from matplotlib.lines import Line2D

        handles = [Line2D([], [], **self.styles[index].line) for index in self.ranked]
        labels = [legend_text(self.series[index]) for index in self.ranked]
        for name, score in self.teachers.items():
            handles.insert(0, Line2D([], [], color=MUTED, linestyle=(0, (6, 3)), linewidth=1.2))
            labels.insert(0, f"{number(self.headline, score)}  {name}")
        figure.legend(
            handles,
            [plain_text(label) for label in labels],
            loc="outside right upper",
            title=self.key,
            alignment="left",
            frameon=False,
            fontsize=9,
            title_fontsize=9,
            labelcolor=INK,
            handlelength=2.6,
        )


def legend_text(series: Series) -> str:
    """``39.68  st (1 of 3 failed)``."""
    last = number(series.headline, series.last, nothing="\N{EN DASH}")
    return f"{last}  {series.label}" + (f" ({series.note})" if series.note else "")


def _teachers(runs: Sequence[PastRun], headline: Measure) -> dict[str, float]:
    """The headline score of every teacher that was measured, by its label."""
    scores = [(run.teacher["name"], run.teacher.get(headline.name)) for run in runs if run.teacher]
    known = sorted({(name, round(score, decimals(headline))) for name, score in scores if score is not None})
    return {f"{name}, the teacher" if len(known) == 1 else f"{name}, a teacher, {score}": score for name, score in known}
