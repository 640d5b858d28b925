"""The table of a sweep as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdengine.report.columns import axis_label, number
from kdengine.report.drawing import dress, new_figure, plain_text
from kdengine.report.grid import Grid
from kdengine.report.markup import DEEPEST
from kdengine.report.palette import GRID, GROUND, INK, LINES, MUTED
from kdengine.storage.scores import Measure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_heatmap", "draw_sweep"]


def draw_sweep(folders: Sequence[str | Path]) -> Figure | None:
    """The picture of a sweep; None unless the one folder holds one.

    Raises:
        SettingsError: it holds runs of different tasks.
    """
    grid = Grid.within(folders[0]) if len(folders) == 1 else None
    return None if grid is None else draw_heatmap(grid)


def draw_heatmap(grid: Grid) -> Figure:
    """A cell for each combination with its score, the better the deeper in colour, as on the page.

    Failed cells stay white; the best score is bold.

    Args:
        grid: the results of the sweep.
    """
    headline, scores = grid.headline, grid.scores()
    last, rows = grid.axes[-1], [", ".join(names) for names in grid.rows]
    figure = new_figure(2 + 0.9 * len(last.values), 1.5 + 0.42 * len(rows), dpi=144)
    axes = figure.add_subplot()
    dress(axes, f"Last test {axis_label(headline)}")
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)
    _draw_cells(axes, scores, headline)
    axes.set_xticks(range(len(last.values)), map(plain_text, last.values))
    axes.set_yticks(range(len(rows)), map(plain_text, rows))
    axes.tick_params(length=0)
    axes.set_xlabel(plain_text(last.name), fontsize=9.5, color=MUTED)
    axes.set_ylabel(plain_text(", ".join(axis.name for axis in grid.axes[:-1])), fontsize=9.5, color=MUTED)
    return figure


def _draw_cells(axes: Axes, scores: Sequence[Sequence[float | None]], headline: Measure) -> None:
    """A rectangle for each cell, which stays one in vector graphics."""
    known = [cell for row in scores for cell in row if cell is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)
    best, worst = (high, low) if headline.higher_is_better else (low, high)
    for row, line in enumerate(scores):
        for column, cell in enumerate(line):
            depth = 0.0 if cell is None or high == low else abs(cell - worst) / (high - low)
            _draw_cell(
                axes, (column, row), _mixed(LINES[0], GROUND, depth * DEEPEST / 100), number(headline, cell), cell == best
            )
    axes.set_xlim(-0.5, max(map(len, scores), default=0) - 0.5)
    axes.set_ylim(len(scores) - 0.5, -0.5)


def _draw_cell(axes: Axes, place: tuple[int, int], colour: str, text: str, is_best: bool) -> None:
    from matplotlib.patches import Rectangle

    column, row = place
    axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=colour, edgecolor=GRID, linewidth=0.8))
    weight = "bold" if is_best and text else "normal"
    axes.text(column, row, text, ha="center", va="center", color=INK, fontsize=9, fontweight=weight)


def _mixed(colour: str, ground: str, share: float) -> str:
    """A colour laid over a ground."""
    from matplotlib.colors import to_hex, to_rgb

    pairs = zip(to_rgb(colour), to_rgb(ground), strict=True)
    return str(to_hex([share * over + (1 - share) * under for over, under in pairs]))
