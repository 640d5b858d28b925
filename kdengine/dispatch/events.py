"""What a worker tells its driver while it trains: lines of a file in the shared folder."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdengine.plugins.hookspecs import hookimpl
from kdengine.progress.lines import epoch_line, label_of_run, news_of
from kdengine.report.pastrun import scoring_in
from kdengine.storage.jsontext import json_text

if TYPE_CHECKING:
    from kdengine.runs.result import Result
    from kdengine.runs.run import Run

__all__ = ["EventReader", "EventWriter"]

EVERY = 0.5
"""Seconds between two events of steps."""


class EventWriter:
    """An observer that appends a line for each event.

    Args:
        file: the file.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._spoken_at = 0.0

    def write(self, **facts: Any) -> None:
        """Append an event; a disk that is full must not end the training."""
        try:
            with self.file.open("a", encoding="utf-8") as opened:
                opened.write(f"{json_text(facts)}\n")
        except OSError:
            return

    @hookimpl
    def kdengine_before_fit(self, run: Run) -> None:
        """A lane begins, or goes on."""
        self.write(lane=label_of_run(run), total=run.total_epochs, epochs=len(run.lane.history), title=run.title)

    @hookimpl
    def kdengine_after_step(self, run: Run, done: int, total: int) -> None:
        """How far a lane is, now and then."""
        if time.monotonic() - self._spoken_at >= EVERY:
            self._spoken_at = time.monotonic()
            self.write(lane=label_of_run(run), epochs=len(run.lane.history) + done / total)

    @hookimpl
    def kdengine_after_epoch(self, run: Run, record: dict[str, Any]) -> None:
        """An epoch of a lane, with its line."""
        headline = scoring_in(run.folder.manifest()).headline
        self.write(
            lane=label_of_run(run),
            epochs=len(run.lane.history),
            score=record.get(f"test_{headline.name}"),
            loss=sum(record["terms"].values()),
            seconds=record["seconds"],
            line=epoch_line(run, record, headline),
        )

    @hookimpl
    def kdengine_after_fit(self, run: Run, result: Result) -> None:
        """A lane is done."""
        self.write(lane=label_of_run(run), ended="done")

    @hookimpl
    def kdengine_on_error(self, run: Run, error: BaseException) -> None:
        """A lane failed, or was interrupted."""
        self.write(lane=label_of_run(run), ended=news_of(error))


class EventReader:
    """Reads the events of a file as they come.

    Args:
        file: the file; it need not exist yet.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._read = 0

    def new(self) -> Iterator[dict[str, Any]]:
        """The events since the last call; half a line stays for the next one."""
        try:
            with self.file.open("rb") as opened:
                opened.seek(self._read)
                content = opened.read()
        except OSError:
            return
        whole = content.rpartition(b"\n")[0]
        self._read += len(whole) + bool(whole)
        for line in whole.splitlines():
            try:
                event = json.loads(line)
            except ValueError:  # two workers, of which one was given up, may have written at once
                continue
            if isinstance(event, dict):
                yield event
