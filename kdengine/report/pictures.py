"""Plots and pages of finished runs, written into their folders."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from kdengine.plugins.hookspecs import hookimpl
from kdengine.storage.writing import replacing

if TYPE_CHECKING:
    from kdengine.plugins.run_view import ResultView, RunView

__all__ = ["Pictures", "leave_pictures"]

log = logging.getLogger(__name__)


class Pictures:
    """Draws ``curves.png`` and writes ``report.html`` once a run is finished."""

    @hookimpl(trylast=True)
    def kdengine_after_fit(self, run: RunView, result: ResultView) -> None:
        """Draw the contents of the folder."""
        leave_pictures(run.folder.path)


def leave_pictures(folder: Path) -> None:
    """Write ``curves.png`` and ``report.html`` into the folder of a run or a comparison; if that fails, log a warning.

    A comparison of several students whose latency is known gets ``tradeoff.png`` too.
    """
    try:
        _draw(folder)
    except Exception as error:
        log.warning("'%s' is finished, but could not be drawn: %s: %s", folder, type(error).__name__, error)


def _draw(folder: Path) -> None:
    from kdengine.report.curves import draw_curves
    from kdengine.report.page import write_page
    from kdengine.report.tradeoff import draw_tradeoff

    for name, figure in (("curves.png", draw_curves([folder])), ("tradeoff.png", draw_tradeoff([folder]))):
        if figure is not None:
            with replacing(folder / name) as file:
                figure.savefig(file, format="png")
    with replacing(folder / "report.html") as file:
        write_page(file, [folder])
