"""The table of a sweep as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdengine.report.columns import axis_label, number
from kdengine.report.drawing import dress, new_figure
from kdengine.report.grid import Grid
from kdengine.report.markup import DEEPEST
from kdengine.report.palette import GROUND, INK, LINES, MUTED
from kdengine.storage.scores import Measure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_heatmap"]


def draw_heatmap(grid: Grid, path: str | Path) -> None:
    """Write a PNG: a cell for each combination with its score, the better the deeper in colour, as on the page.

    Failed cells stay white; the best score is bold.

    Args:
        grid: the results of the sweep.
        path: file to write.
    """
    headline, scores = grid.headline, grid.scores()
    last, rows = grid.axes[-1], [", ".join(names) for names in grid.rows]
    figure = new_figure(2 + 0.9 * len(last.values), 1.5 + 0.5 * len(rows), dpi=144)
    axes = figure.add_subplot()
    dress(axes, f"Last {axis_label(headline)}")
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)
    _draw_cells(axes, scores, headline)
    axes.set_xticks(range(len(last.values)), last.values)
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(length=0)
    axes.set_xlabel(last.name, color=MUTED)
    axes.set_ylabel(", ".join(axis.name for axis in grid.axes[:-1]), color=MUTED)
    figure.savefig(path, format="png")


def _draw_cells(axes: Axes, scores: Sequence[Sequence[float | None]], headline: Measure) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    values = [[float("nan") if cell is None else cell for cell in row] for row in scores]
    shades = LinearSegmentedColormap.from_list("page", [GROUND, _mixed(LINES[0], GROUND, DEEPEST / 100)])
    axes.imshow(values, aspect="auto", cmap=shades if headline.higher_is_better else shades.reversed())
    known = [cell for row in scores for cell in row if cell is not None]
    best = (max if headline.higher_is_better else min)(known, default=None)
    for row, line in enumerate(scores):
        for column, cell in enumerate(line):
            weight = "bold" if cell == best else "normal"
            text = number(headline, cell)
            axes.text(column, row, text, ha="center", va="center", color=INK, fontsize=8.5, fontweight=weight)


def _mixed(colour: str, ground: str, share: float) -> str:
    """A colour laid over a ground."""
    from matplotlib.colors import to_hex, to_rgb

    pairs = zip(to_rgb(colour), to_rgb(ground), strict=True)
    return str(to_hex([share * over + (1 - share) * under for over, under in pairs]))
