"""The table of a sweep as a picture."""

from __future__ import annotations

from pathlib import Path

from kdengine.report.grid import Grid

__all__ = ["draw_heatmap"]


def draw_heatmap(grid: Grid, path: str | Path) -> None:
    """Write a PNG: a coloured cell for each combination, with its accuracy; failed cells stay white.

    Args:
        grid: what the sweep came to.
        path: file to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    found = grid.accuracies()
    values = [[float("nan") if cell is None else cell for cell in row] for row in found]
    last, rows = grid.axes[-1], [", ".join(names) for names in grid.rows]
    figure = Figure(figsize=(2 + 0.9 * len(last.values), 1.6 + 0.55 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(values, aspect="auto", cmap="cividis")
    axes.set_xticks(range(len(last.values)), last.values)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xlabel(last.name)
    axes.set_ylabel(", ".join(axis.name for axis in grid.axes[:-1]))
    axes.set_title("last top-1 %")
    low, high = image.get_clim()
    for row, line in enumerate(found):
        for column, cell in enumerate(line):
            if cell is not None:
                dark = high > low and (cell - low) / (high - low) < 0.6
                axes.text(column, row, f"{cell:.1f}", ha="center", va="center", color="white" if dark else "black", fontsize=8)
    figure.colorbar(image, ax=axes)
    figure.savefig(path, dpi=144, format="png")
