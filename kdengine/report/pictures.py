"""Plots and pages of finished runs, written into their folders."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdengine.plugins.hookspecs import hookimpl
from kdengine.storage.writing import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from kdengine.plugins.run_view import ResultView, RunView

__all__ = ["Pictures", "drawings", "leave_pictures"]

log = logging.getLogger(__name__)


class Pictures:
    """Draws ``curves.png`` and writes ``report.html`` once a run is finished."""

    @hookimpl(trylast=True)
    def kdengine_after_fit(self, run: RunView, result: ResultView) -> None:
        """Draw the contents of the folder."""
        leave_pictures(run.folder.path)


def leave_pictures(folder: Path, formats: Sequence[str] = ("png",)) -> None:
    """Write ``curves.png`` and ``report.html`` into the folder of a run or a comparison; if that fails, log a warning.

    A comparison gets ``gains.png`` too, one of several students whose latency is known ``tradeoff.png``, and a sweep
    ``sweep.png``.

    Args:
        folder: the folder.
        formats: of the pictures: ``png``, ``pdf``, ``svg``.
    """
    try:
        _draw(folder, formats)
    except Exception as error:
        log.warning("'%s' is finished, but could not be drawn: %s: %s", folder, type(error).__name__, error)


def drawings() -> Mapping[str, Callable[[Sequence[str | Path]], Figure | None]]:
    """Every picture of run folders by its name; each is None where the folders have nothing of the kind."""
    from kdengine.report.curves import draw_curves
    from kdengine.report.gains import draw_gains
    from kdengine.report.heatmap import draw_sweep
    from kdengine.report.tradeoff import draw_tradeoff

    return {"curves": draw_curves, "gains": draw_gains, "tradeoff": draw_tradeoff, "sweep": draw_sweep}


def _draw(folder: Path, formats: Sequence[str]) -> None:
    from kdengine.report.page import write_page
    from kdengine.report.saving import save_figure

    for name, draw in drawings().items():
        figure = draw([folder])
        if figure is None:
            continue
        for kind in formats:
            with replacing(folder / f"{name}.{kind}") as file:
                save_figure(figure, file, kind)
    with replacing(folder / "report.html") as file:
        write_page(file, [folder])
