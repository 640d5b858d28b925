"""Progress of filling a teacher store: a bar, or a line for each epoch where nothing can be redrawn."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from kdengine.progress.screen import can_redraw, new_console

__all__ = ["FillingProgress"]


class FillingProgress:
    """Shows on standard error how many batches are there; a context, called after every batch.

    Args:
        epochs: of each seed.
        batches: of all epochs and seeds.
        quiet: whether to count only.
    """

    def __init__(self, epochs: int, batches: int, quiet: bool = False) -> None:
        self.console = new_console()
        self.console.quiet = quiet
        self.epochs, self.batches = epochs, batches
        self.done = 0
        """Batches that are there."""
        self._there: dict[tuple[int, int], int] = {}
        self._bar: Progress | None = None
        if can_redraw(self.console) and not quiet:
            columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), TimeRemainingColumn())
            self._bar = Progress(*columns, console=self.console, transient=True)
            self._bar.add_task("", total=batches)

    def __enter__(self) -> FillingProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, text: str) -> None:
        """A line, above the bar."""
        self.console.print(text, soft_wrap=True)

    def tell(self, unit: str, event: Mapping[str, Any]) -> None:
        """Show what a worker says.

        Args:
            unit: name of its unit.
            event: where it was started, or what this object is called with; others are ignored.
        """
        if "started" in event:
            self.say(f"{unit}: started on {event['started']}")
        elif {"seed", "epoch", "there", "total"} <= event.keys():
            self(event["seed"], event["epoch"], event["there"], event["total"])

    def __call__(self, seed: int, epoch: int, there: int, total: int) -> None:
        """So many of the batches of an epoch, counted from 0, are there."""
        before = self._there.get((seed, epoch), 0)
        if there <= before:  # a worker that follows a lost one tells again what is there
            return
        self.done += there - before
        self._there[seed, epoch] = there
        text = f"seed {seed}, epoch {epoch + 1}/{self.epochs}"
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self.done, description=text)
        elif there == total:
            self.console.print(f"  {text}: {total} batches", soft_wrap=True)
