"""The observer behind every plugin for an experiment tracker: what is logged when, and what happens if that fails."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from kdengine.errors import cause
from kdengine.plugins.deferred import Deferred
from kdengine.plugins.hookspecs import hookimpl
from kdengine.plugins.run_log import RunInfo, RunLog
from kdengine.plugins.run_numbers import epoch_numbers, run_choices
from kdengine.plugins.run_view import ComparisonView, ResultView, RunView
from kdengine.storage.names import SAMPLES
from kdengine.storage.reading import read_json
from kdengine.storage.writing import write_json

__all__ = ["Tracking"]

log = logging.getLogger(__name__)

EVERY = 50
"""Steps between two logged ones, unless ``train.log_every`` says otherwise."""


@dataclass
class _Open:
    """An open log, and how far it has come.

    Attributes:
        log: the log.
        epochs: epochs that are logged.
        logged: the last step that is logged.
        waiting: the terms of a later step, which are still on the device.
    """

    log: RunLog
    epochs: int = 0
    logged: int = 0
    waiting: Deferred | None = None


class Tracking:
    """Observer that logs every run to an experiment tracker; a plugin module makes one, and offers its hooks as its own.

    ::

        tracking = Tracking("mytracker", MyLog)
        kdengine_before_fit = tracking.kdengine_before_fit

    * Settings are logged at the start; every epoch's numbers when it has ended; the loss terms of every ``train.log_every``-th
      step (every 50th by default), which are read a while later, so that no step waits for the device; at the end the
      scores, pictures, the accuracy of each class and, of a comparison, its table.
    * A run that is resumed continues its log: the file ``NAME.json`` in its folder has the identity, and what is logged
      already is not logged again.
    * Of several processes, only the first one logs.
    * A log that fails, for want of a network or of a login, is given up with one warning; the run goes on.

    Args:
        name: name of the tracker, for the file and for warnings.
        open: opens the log of a run that begins or is resumed.
    """

    def __init__(self, name: str, open: Callable[[RunInfo], RunLog]) -> None:
        self.name = name
        self._opener = open
        self._open: dict[Path, _Open] = {}
        self._warned: set[str] = set()

    @hookimpl
    def kdengine_before_fit(self, run: RunView) -> None:
        """Open the log, and catch up on epochs whose state was saved but which were not logged before a kill."""
        if run.runtime.is_main:
            self._guarded(run.folder.path, self._begin, run)

    @hookimpl
    def kdengine_after_step(self, run: RunView, done: int, terms: Mapping[str, Tensor]) -> None:
        """Take the terms of every N-th step, and log those that were taken before."""
        folder = run.folder.path
        if folder in self._open and done % (run.settings.train.log_every or EVERY) == 0:
            self._guarded(folder, self._take, folder, len(run.lane.history) * run.lane.steps + done, terms)

    @hookimpl
    def kdengine_after_epoch(self, run: RunView, record: Mapping[str, Any]) -> None:
        """Log an epoch."""
        if run.folder.path in self._open:
            self._guarded(run.folder.path, self._log_epochs, run, [record])

    @hookimpl(trylast=True)
    def kdengine_after_fit(self, run: RunView, result: ResultView) -> None:
        """Log scores, pictures and classes, and close the log."""
        if run.folder.path in self._open:
            self._guarded(run.folder.path, self._finish, run, result)

    @hookimpl
    def kdengine_on_error(self, run: RunView, error: BaseException) -> None:
        """Mark the run as interrupted or failed, and close its log."""
        if run.folder.path in self._open:
            self._guarded(run.folder.path, self._give_up, run.folder.path, error)

    @hookimpl
    def kdengine_after_comparison(self, comparison: ComparisonView) -> None:
        """Log the table of a comparison, as a run of its own in the group of the lanes."""
        self._guarded(comparison.folder, self._log_table, comparison)

    def _begin(self, run: RunView) -> None:
        folder = run.folder.path
        stored = read_json(self._file(folder)) if self._file(folder).is_file() else {}
        opened = self._opener(RunInfo.of(run, run_choices(run), stored.get("id")))
        self._open[folder] = _Open(opened, int(stored.get("epochs", 0)), int(stored.get("step", 0)))
        self._note(folder)
        self._log_epochs(run, run.lane.history)

    def _take(self, folder: Path, step: int, terms: Mapping[str, Tensor]) -> None:
        self._log_waiting(folder)
        if step > self._open[folder].logged:
            self._open[folder].waiting = Deferred.of(step, terms)

    def _log_waiting(self, folder: Path) -> None:
        opened = self._open[folder]
        waiting, opened.waiting = opened.waiting, None
        if waiting is not None:
            opened.log.step({f"steps/{name}": value for name, value in waiting.read().items()}, waiting.step)
            opened.logged = waiting.step

    def _log_epochs(self, run: RunView, records: Iterable[Mapping[str, Any]]) -> None:
        opened = self._open[run.folder.path]
        self._log_waiting(run.folder.path)
        for record in records:
            if record["epoch"] > opened.epochs:
                opened.log.epoch(epoch_numbers(record), record["epoch"], record["epoch"] * run.lane.steps)
                opened.epochs = record["epoch"]
        self._note(run.folder.path)

    def _finish(self, run: RunView, result: ResultView) -> None:
        opened = self._open[run.folder.path].log
        picture = result.folder / SAMPLES
        if picture.is_file():
            opened.image(picture.stem, picture)
        classes = run.per_class(result.student)
        if classes:
            keys = ("class", "images", "accuracy", "confused_with")
            rows = [[each[key] for key in keys] for each in classes]
            opened.table("per-class", ("class", "images", "accuracy %", "mostly taken for"), rows)
        scores = {name: value for name, value in result.facts["student"].items() if isinstance(value, (int, float))}
        warned = {"warnings": " ".join(result.facts["warnings"])} if result.facts.get("warnings") else {}
        self._close(run.folder.path, "finished", {**scores, **warned})

    def _give_up(self, folder: Path, error: BaseException) -> None:
        self._log_waiting(folder)
        self._note(folder)
        if isinstance(error, Exception):
            self._close(folder, "failed", {"reason": cause(error)})
        else:
            self._close(folder, "interrupted", {})

    def _log_table(self, comparison: ComparisonView) -> None:
        folder = comparison.folder
        stored = read_json(self._file(folder)) if self._file(folder).is_file() else {}
        name = folder.resolve().name
        info = RunInfo("leaderboard", name, comparison.title, folder, "comparison", id=stored.get("id"))
        self._open[folder] = _Open(self._opener(info))
        self._note(folder)
        self._open[folder].log.table("leaderboard", comparison.columns, comparison.rows)
        self._close(folder, "finished", {})

    def _close(self, folder: Path, state: Any, summary: Mapping[str, float | str]) -> None:
        """Close the log; it is forgotten first, so that one that fails to close is not closed again."""
        self._open.pop(folder).log.end(state, summary)

    def _note(self, folder: Path) -> None:
        """Store in the folder which log is its own, and how far that has come."""
        opened = self._open[folder]
        write_json(self._file(folder), {"id": opened.log.id, "epochs": opened.epochs, "step": opened.logged})

    def _file(self, folder: Path) -> Path:
        return folder / f"{self.name}.json"

    def _guarded(self, folder: Path, act: Callable[..., None], *arguments: Any) -> None:
        """Do something with a log; if that fails, give it up, and warn of each reason once."""
        try:
            act(*arguments)
        except (Exception, SystemExit) as error:  # clients of servers fail in any way
            self._open.pop(folder, None)
            reason = cause(error)[:500]
            if reason not in self._warned:
                self._warned.add(reason)
                log.warning("Nothing more of '%s' is logged to %s: %s. The run goes on without.", folder, self.name, reason)
