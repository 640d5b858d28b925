"""Plots over epochs: accuracy of every method in one panel, and the terms of each method's loss."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdengine.report.drawing import draw_mean, dress, make_logarithmic, new_figure, plain_text, styles_of, term_colours
from kdengine.report.palette import GROUND, INK, MUTED
from kdengine.report.pastrun import FAILED, FINISHED, UNFINISHED, PastRun, find_runs
from kdengine.report.series import Curve, Series, series_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

__all__ = ["Plot", "draw_curves"]

TEST, TRAIN = "test_top1", "train_top1"
FEW = 15
"""Up to so many epochs, each is marked by a point."""
LONG = 20
"""From so many epochs on, the vertical axis leaves out how the curves rise."""
WIDE_RANGE = 30
"""Terms further apart than this factor are drawn on a logarithmic axis."""
COLUMNS = 4
ENDS: Mapping[str, Mapping[str, Any]] = {
    FINISHED: {"marker": "o", "markersize": 5},
    UNFINISHED: {"marker": "o", "markersize": 5},
    FAILED: {"marker": "X", "markersize": 6.5},
}
"""How the end of a line is marked."""


def draw_curves(folders: Sequence[str | Path]) -> Figure:
    """Accuracy on test and training images of all methods, and the terms of each, in one figure.

    Args:
        folders: run folders, or folders with run folders below them.

    Raises:
        SettingsError: a folder holds no run.
    """
    return Plot(find_runs(folders)).everything()


class Plot:
    """All figures over some runs.

    Args:
        runs: in any state.
    """

    def __init__(self, runs: Sequence[PastRun]) -> None:
        self.series = series_of(runs)
        self.styles = styles_of(self.series)
        self.teachers = _teachers(runs)

    @property
    def ranked(self) -> list[int]:
        """Numbers of the series, the best last accuracy first; a teacher's own training at the end."""
        keys = [(series.role == "teacher", -(series.last or -math.inf)) for series in self.series]
        return sorted(range(len(keys)), key=keys.__getitem__)

    @property
    def told(self) -> list[int]:
        """Numbers of the series with terms, ranked."""
        return [number for number in self.ranked if self.series[number].terms()]

    @property
    def trials(self) -> int:
        """The most runs that a series has."""
        return max(len(series.runs) for series in self.series)

    @property
    def key(self) -> str:
        """What the numbers of the legend are."""
        mean = f", mean of {self.trials} trials" if self.trials > 1 else ""
        return f"last test accuracy, %{mean}"

    def everything(self) -> Figure:
        """Both accuracies with a legend, and the terms of every series: beside them if it is one, else below."""
        told = self.told if len(self.told) > 1 else []
        rows = math.ceil(len(told) / COLUMNS)
        top = max(3.9, 0.19 * (len(self.series) + len(self.teachers)) + 0.5)
        figure = new_figure(13.2, top + 1.9 * rows, dpi=120)
        upper, lower = figure.subfigures(2, 1, height_ratios=[top, 1.9 * rows], squeeze=False).flat if rows else (figure, None)
        if lower is None and self.told:
            *accuracies, beside = upper.subplots(1, 3)
            self.draw_terms(beside, self.told[0], "Terms of the loss")
        else:
            accuracies = upper.subplots(1, 2, width_ratios=[1.45, 1])
        self.draw_accuracy(accuracies[0], TEST, "Accuracy on test images, %")
        self.draw_accuracy(accuracies[1], TRAIN, "Accuracy on training images, %")
        self._draw_legend(upper)
        for place, panel in enumerate(lower.subplots(rows, COLUMNS, squeeze=False).flat if lower is not None else ()):
            if place < len(told):
                self.draw_terms(panel, told[place], self.series[told[place]].label, small=True)
            else:
                panel.set_axis_off()
        return figure

    def accuracy(self, name: str) -> Figure:
        """One panel alone: ``test_top1`` or ``train_top1``, without a legend."""
        figure = new_figure(5.1, 3.4)
        self.draw_accuracy(figure.add_subplot(), name)
        return figure

    def terms(self, number: int) -> Figure:
        """The terms of one series alone."""
        figure = new_figure(3.0, 2.05)
        self.draw_terms(figure.add_subplot(), number, small=True)
        return figure

    def draw_accuracy(self, axes: Axes, name: str, title: str = "") -> None:
        """Curves of all series, and the teachers as horizontal lines where the images are those of the test."""
        dress(axes, title)
        floor = self._floor(name)
        for number, series in enumerate(self.series):
            self._draw_series(axes, number, series.accuracy(name), floor)
        if name == TEST:
            for top1 in self.teachers.values():
                axes.axhline(top1, color=MUTED, linestyle=(0, (6, 3)), linewidth=1.2, zorder=1)
        self._set_limits(axes, name, floor)

    def draw_terms(self, axes: Axes, number: int, title: str = "", small: bool = False) -> None:
        """Every term of one series; a vertical line where a phase begins."""
        dress(axes, title, small)
        series = self.series[number]
        curves, starts = series.terms(), series.phase_starts()
        colours = term_colours(list(curves))
        for name, curve in curves.items():
            for place, part in enumerate(curve.split(starts)):
                line = {"color": colours[name], "linewidth": 1.4, "marker": "." if len(part.epochs) == 1 else ""}
                draw_mean(axes, part, line, label="" if place else plain_text(name))
        for epoch in starts:
            axes.axvline(epoch - 0.5, color=MUTED, linewidth=0.8, linestyle=(0, (1, 2)))
        if len(series.runs[0].rows) == 1:
            axes.set_xlim(0.5, 1.5)
        values = [value for curve in curves.values() for value in curve.mean]
        if values and min(values) > 0 and max(values) > WIDE_RANGE * min(values):
            make_logarithmic(axes)
        axes.legend(
            fontsize=7.5 if small else 9, frameon=False, labelcolor=INK, handlelength=1.2, borderaxespad=0.1, labelspacing=0.25
        )

    def _draw_series(self, axes: Axes, number: int, curve: Curve, floor: float) -> None:
        """A line with its band, and at its end a point: full, empty if it is not finished, a cross if it failed."""
        if not curve.epochs:
            return
        series, style = self.series[number], self.styles[number]
        order = {"method": 3.0, "plain": 2.5, "teacher": 2.0}[series.role]
        marks = {"marker": ".", "markersize": 4.5} if len(curve.epochs) <= FEW else {}
        line = {**style.line, **marks, "zorder": order}
        draw_mean(axes, curve, line, gid=f"s{number}", shade=0.16 if len(self.series) <= FEW else 0.09)
        if series.role == "teacher":
            return
        axes.plot(
            curve.epochs[-1:],
            [max(curve.mean[-1], floor)],
            **ENDS[series.state],
            markerfacecolor=GROUND if series.state == UNFINISHED else style.colour,
            markeredgecolor=style.colour,
            linestyle="none",
            clip_on=False,
            zorder=order + 1,
            gid=f"s{number}-end",
        )

    def _students(self, name: str) -> list[tuple[Series, Curve]]:
        curves = [(series, series.accuracy(name)) for series in self.series if series.role != "teacher"]
        return [(series, curve) for series, curve in curves if curve.epochs]

    def _floor(self, name: str) -> float:
        """Where the vertical axis begins, so that the ends of long curves are told apart; minus infinity for short ones."""
        students = self._students(name)
        longest = max((curve.epochs[-1] for _, curve in students), default=0)
        whole = [curve.mean for series, curve in students if curve.epochs[-1] > longest / 2 and not series.failed]
        if longest < LONG or not whole:
            return -math.inf
        late = [value for mean in whole for value in mean[-max(1, len(mean) // 4) :]]
        floor = min(late) - 0.8 * max(max(late) - min(late), 1.0)
        return floor if floor > min(value for _, curve in students for value in curve.mean) else -math.inf

    def _set_limits(self, axes: Axes, name: str, floor: float) -> None:
        """Epochs of the students: a teacher's own training may be longer."""
        longest = max((curve.epochs[-1] for _, curve in self._students(name)), default=0)
        if longest:
            axes.set_xlim(0.5 if longest <= FEW else 0, longest + max(0.5, longest / 60))
        if floor > -math.inf:
            axes.set_ylim(bottom=floor)

    def _draw_legend(self, figure: Figure | SubFigure) -> None:
        from matplotlib.lines import Line2D

        handles = [Line2D([], [], **self.styles[number].line) for number in self.ranked]
        labels = [legend_text(self.series[number]) for number in self.ranked]
        for name, top1 in self.teachers.items():
            handles.insert(0, Line2D([], [], color=MUTED, linestyle=(0, (6, 3)), linewidth=1.2))
            labels.insert(0, f"{top1:.2f}  {name}")
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
    last = "\N{EN DASH}" if series.last is None else f"{series.last:.2f}"
    return f"{last}  {series.label}" + (f" ({series.note})" if series.note else "")


def _teachers(runs: Sequence[PastRun]) -> dict[str, float]:
    """Accuracy of every teacher that was measured, by what to call it."""
    known = {(run.teacher["name"], round(run.teacher["top1"], 2)) for run in runs if run.teacher and run.teacher.get("top1")}
    return {f"{name}, the teacher" if len(known) == 1 else f"{name}, a teacher, {top1}": top1 for name, top1 in sorted(known)}
