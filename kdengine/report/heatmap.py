"""The table of a sweep as a picture."""

from __future__ import annotations

from pathlib import Path

from kdengine.report.grid import Grid

__all__ = ["draw_heatmap"]


def draw_heatmap(grid: Grid, path: str | Path) -> None:
    """Write a PNG: a coloured cell for each combination with its score, the best brightest; failed cells stay white.

    Args:
        grid: the results of the sweep.
        path: file to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    headline, scores = grid.headline, grid.scores()
    values = [[float("nan") if cell is None else cell for cell in row] for row in scores]
    last, rows = grid.axes[-1], [", ".join(names) for names in grid.rows]
    figure = Figure(figsize=(2 + 0.9 * len(last.values), 1.6 + 0.55 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(values, aspect="auto", cmap="cividis" if headline.higher_is_better else "cividis_r")
    axes.set_xticks(range(len(last.values)), last.values)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xlabel(last.name)
    axes.set_ylabel(", ".join(axis.name for axis in grid.axes[:-1]))
    axes.set_title(f"last {headline.title}")
    low, high = image.get_clim()
    digits = 1 if headline.unit else 3
    for row, line in enumerate(scores):
        for column, cell in enumerate(line):
            if cell is not None:
                share = (cell - low) / (high - low) if high > low else 1.0
                bright = share if headline.higher_is_better else 1 - share
                colour = "white" if high > low and bright < 0.6 else "black"
                axes.text(column, row, f"{cell:.{digits}f}", ha="center", va="center", color=colour, fontsize=8)
    figure.colorbar(image, ax=axes)
    figure.savefig(path, dpi=144, format="png")
