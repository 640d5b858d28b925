"""What a worker does with a unit of ``teach``: it fills one seed of a teacher store."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from kdengine.config.settings import Settings
from kdengine.dispatch.duty import on_duty
from kdengine.dispatch.events import EVERY, EventWriter
from kdengine.dispatch.handover import take_teachers
from kdengine.runs.assignment import Assignment
from kdengine.runs.teach import Filling

__all__ = ["fill_seed"]


def fill_seed(
    settings: Mapping[str, Any],
    seed: int,
    trials: int,
    views: int,
    files: str,
    events: str,
    expected: Mapping[str, Any],
    argv: Sequence[str],
) -> None:
    """Fill one seed of a store; what is there already is not made again.

    Args:
        settings: those of the driver, which name the store.
        seed: the seed.
        trials: how many seeds the store gets, from that of the settings on.
        views: of every image.
        files: the folder with the teachers.
        events: the name of the file for events in it.
        expected: what must be true here; see :func:`kdengine.launchers.fitness.unfit`.
        argv: the command of the driver.

    Raises:
        LaunchError: this worker is not fit for the work.
        KDError: for anything the user can fix.
        Stopped: it was interrupted; what was written is kept.
    """
    with on_duty(expected, argv, Path(files) / events) as writer:
        session = Assignment.complete(Settings.checked(settings), modules={"student": nn.Identity()}).session()
        filling = Filling(session, trials, views)
        teller = _Teller(writer)
        try:
            filling.fill([seed], take_teachers(session, Path(files)), teller)
        finally:
            teller.speak()


class _Teller:
    """Tells the driver how many batches are there: now and then, of every epoch that is whole, and at the end."""

    def __init__(self, writer: EventWriter) -> None:
        self._writer = writer
        self._news: dict[str, int] = {}
        self._spoken_at = 0.0

    def __call__(self, seed: int, epoch: int, there: int, total: int) -> None:
        self._news = {"seed": seed, "epoch": epoch, "there": there, "total": total}
        if there == total or time.monotonic() - self._spoken_at >= EVERY:
            self.speak()

    def speak(self) -> None:
        """Tell the last news."""
        if self._news:
            self._writer.write(**self._news)
        self._news, self._spoken_at = {}, time.monotonic()
