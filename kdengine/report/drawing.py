"""The look that all plots share: lines, axes and figures."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kdengine.report.palette import DASHES, GRID, INK, LINES, MUTED, PLAIN
from kdengine.report.series import Curve, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Style", "draw_mean", "dress", "make_logarithmic", "new_figure", "plain_text", "styles_of", "term_colours"]


@dataclass(frozen=True)
class Style:
    """How a series is drawn."""

    colour: str
    dashes: Any = "-"
    width: float = 1.7

    @property
    def line(self) -> dict[str, Any]:
        """Arguments for a line."""
        return {"color": self.colour, "linestyle": self.dashes, "linewidth": self.width}


def styles_of(series: Sequence[Series]) -> list[Style]:
    """The plain student dark grey, the training of a teacher thin, every method a colour; further methods are dashed."""
    numbers = {role: itertools.count() for role in ("plain", "method", "teacher")}
    return [_style(one.role, next(numbers[one.role])) for one in series]


def _style(role: str, number: int) -> Style:
    """The style of series ``number`` (from 0) of a role."""
    if role == "teacher":
        return Style(MUTED, DASHES[number % len(DASHES)], 0.9)
    if role == "plain":
        return Style(PLAIN, DASHES[number % len(DASHES)], 2.2)
    return Style(LINES[number % len(LINES)], DASHES[number // len(LINES) % len(DASHES)])


def term_colours(names: Sequence[str]) -> Mapping[str, str]:
    """The task term dark grey, like the plain student; every other term a colour."""
    others = [name for name in names if name != "task"]
    return {"task": PLAIN, **{name: LINES[number % len(LINES)] for number, name in enumerate(others)}}


def draw_mean(axes: Axes, curve: Curve, style: Mapping[str, Any], gid: str = "", label: str = "", shade: float = 0.16) -> None:
    """A line; for several trials also the band of one standard deviation."""
    axes.plot(curve.epochs, curve.mean, label=label, gid=f"{gid}-line" if gid else None, **style)
    if curve.low != curve.high:
        band = axes.fill_between(curve.epochs, curve.low, curve.high, color=style["color"], alpha=shade, linewidth=0)
        band.set_gid(f"{gid}-band" if gid else None)


def new_figure(width: float, height: float, dpi: int = 100) -> Figure:
    """A figure outside matplotlib's global state; sizes in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    engine = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08)
    figure = Figure(figsize=(width, height), dpi=dpi, layout=engine)
    FigureCanvasAgg(figure)
    return figure


def dress(axes: Axes, title: str, small: bool = False) -> None:
    """A light grid, thin axes, and whole epochs on the horizontal axis."""
    from matplotlib.ticker import MaxNLocator

    size = 8 if small else 9.5
    axes.set_title(plain_text(title), loc="left", fontsize=size + 1, color=INK)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    axes.tick_params(colors=MUTED, labelcolor=MUTED, labelsize=size, length=3)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, nbins=5 if small else 8))
    axes.set_xlabel("epoch", fontsize=size - 0.5 if small else size, color=MUTED)


def make_logarithmic(axes: Axes, ticks: Sequence[float] = (1.0,)) -> None:
    """A logarithmic vertical axis: these multiples of powers of ten as plain numbers, no ticks between them."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=ticks, numticks=6))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def plain_text(text: str) -> str:
    """Text in which matplotlib reads no formulas."""
    return text.replace("$", r"\$")
