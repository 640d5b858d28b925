"""Plots of loss terms over epochs: a panel for each series, all on the same axes as far as that shows anything."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from kdengine.report.drawing import draw_mean, dress, make_logarithmic, new_figure, plain_text, term_colours
from kdengine.report.palette import INK, MUTED
from kdengine.report.series import Curve, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Terms"]

WIDE_RANGE = 30
"""Terms that differ by more than this factor are drawn on a logarithmic axis."""
WIDEST_RANGE = 3000
"""If the terms of all panels differ by more than this factor, on one axis each of them would be a flat line."""
FEW_DECADES, TICKS = 300, (1.0, 2.0, 5.0)
"""Up to this factor between its ends, a logarithmic axis has more ticks than powers of ten."""
BELOW = 33
"""Points from the horizontal axis down to the legend, below the ticks and the label."""


class Terms:
    """The loss terms of some series.

    Args:
        series: those that have terms; every panel is of one of them.
    """

    def __init__(self, series: Sequence[Series]) -> None:
        self.series = [one for one in series if one.terms()]

    @cached_property
    def common(self) -> Scale | None:
        """The vertical axis of all panels; None if their terms are too different for one."""
        scale = Scale.of(curve for one in self.series for curve in one.terms().values())
        return scale if scale.is_readable or len(self.series) < 2 else None

    @cached_property
    def longest(self) -> int:
        """The last epoch of the longest student; a teacher may have trained for longer, and its panel then ends later."""
        return max((_last_epoch(one) for one in self.series if one.role != "teacher"), default=1)

    @property
    def note(self) -> str:
        """Whether the panels can be compared by height."""
        if len(self.series) < 2:
            return ""
        return "All panels have the same vertical axis." if self.common else "The vertical axes differ."

    def figure(self, series: Series) -> Figure:
        """The panel of one series alone."""
        figure = new_figure(3.0, 2.4)
        self.draw(figure.add_subplot(), series, small=True)
        return figure

    def draw(self, axes: Axes, series: Series, title: str = "", small: bool = False) -> None:
        """Every loss term of one series; a vertical line where a phase begins."""
        dress(axes, title, small)
        curves, starts = series.terms(), series.phase_starts()
        colours = term_colours(list(curves))
        for name, curve in curves.items():
            for number, part in enumerate(curve.split(starts)):
                line = {"color": colours[name], "linewidth": 1.4, "marker": "." if len(part.epochs) == 1 else ""}
                draw_mean(axes, part, line, label="" if number else plain_text(name))
        for epoch in starts:
            axes.axvline(epoch - 0.5, color=MUTED, linewidth=0.8, linestyle=(0, (1, 2)))
        axes.set_xlim(0.5, max(self.longest, _last_epoch(series)) + 0.5)
        (self.common or Scale.of(curves.values())).apply(axes)
        _draw_legend(axes, small)


@dataclass(frozen=True)
class Scale:
    """A vertical axis.

    Attributes:
        low: the lowest value on it.
        high: the highest value.
        is_logarithmic: whether its values differ by too much for a linear one.
    """

    low: float
    high: float
    is_logarithmic: bool

    @classmethod
    def of(cls, curves: Iterable[Curve]) -> Scale:
        """One that holds some curves, and their bands if it is linear."""
        listed = list(curves)
        means = [value for curve in listed for value in curve.mean]
        if means and min(means) > 0 and max(means) > WIDE_RANGE * min(means):
            return cls(min(means), max(means), is_logarithmic=True)
        values = [value for curve in listed for value in (*curve.low, *curve.high)] or [0.0, 1.0]
        return cls(min(values), max(values), is_logarithmic=False)

    @property
    def is_readable(self) -> bool:
        """Whether single curves are more than flat lines on it."""
        return not self.is_logarithmic or self.high <= WIDEST_RANGE * self.low

    def apply(self, axes: Axes) -> None:
        """Give it to a panel, with some room at both ends."""
        if self.is_logarithmic:
            room = (self.high / self.low) ** 0.05
            make_logarithmic(axes, TICKS if self.high < FEW_DECADES * self.low else (1.0,))
            axes.set_ylim(self.low / room, self.high * room)
            return
        room = 0.05 * (self.high - self.low) or 0.5
        axes.set_ylim(self.low - room, self.high + room)


def _last_epoch(series: Series) -> int:
    return max((curve.epochs[-1] for curve in series.terms().values() if curve.epochs), default=1)


def _draw_legend(axes: Axes, small: bool) -> None:
    """Below the panel, where it covers no line."""
    from matplotlib.transforms import ScaledTranslation

    figure = axes.get_figure(root=True)
    assert figure is not None
    below = axes.transAxes + ScaledTranslation(0, -BELOW / 72, figure.dpi_scale_trans)
    look = {"fontsize": 7.5 if small else 9, "frameon": False, "labelcolor": INK, "handlelength": 1.2, "ncols": 2}
    spaces = {"borderaxespad": 0, "borderpad": 0, "labelspacing": 0.25, "columnspacing": 1.0}
    axes.legend(loc="upper left", bbox_to_anchor=(0, 0), bbox_transform=below, **look, **spaces)
