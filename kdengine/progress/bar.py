"""Progress of one run: a line for each epoch, and below them a bar where it can be redrawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from kdengine.errors import counted
from kdengine.plugins.hookspecs import hookimpl
from kdengine.progress.lines import epoch_line, final_scores, saved_part
from kdengine.progress.screen import can_redraw, new_console
from kdengine.report.pastrun import scoring_in
from kdengine.storage.scores import CLASSIFICATION

if TYPE_CHECKING:
    from kdengine.runs.result import Result
    from kdengine.runs.run import Run

__all__ = ["ProgressBar"]


class ProgressBar:
    """Shows the progress of a run on standard error."""

    def __init__(self) -> None:
        self.console = new_console()
        self._headline = CLASSIFICATION.headline
        self._bar: Progress | None = None
        self._task = TaskID(0)

    @hookimpl
    def kdengine_before_fit(self, run: Run) -> None:
        """Announce what is trained, and for how long."""
        self._headline = scoring_in(run.folder.manifest()).headline
        kind = "Training" if run.settings.teacher is None else "Distilling"
        facts = run.runtime.describe()
        self.console.print(
            Text.assemble((kind, "bold"), f" {run.title}: {counted(run.total_epochs, 'epoch')} on {facts['device']} in "),
            f"{facts['precision']}, seed {run.settings.seed}",
            sep="",
            soft_wrap=True,
        )
        if can_redraw(self.console):
            columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), TimeRemainingColumn())
            self._bar = Progress(*columns, console=self.console, transient=True)
            self._task = self._bar.add_task(f"epoch 1/{run.total_epochs}", total=run.total_epochs)
            self._bar.start()

    @hookimpl
    def kdengine_after_step(self, run: Run, done: int, total: int) -> None:
        """Move the bar."""
        if self._bar is not None:
            epoch = len(run.lane.history)
            text = f"epoch {epoch + 1}/{run.total_epochs}"
            self._bar.update(self._task, completed=epoch + done / total, description=text)

    @hookimpl
    def kdengine_after_epoch(self, run: Run, record: dict[str, Any]) -> None:
        """One line with the losses and the headline score; a bar stays below it."""
        self.console.print(f"  {epoch_line(run, record, self._headline)}", soft_wrap=True)

    @hookimpl
    def kdengine_after_fit(self, run: Run, result: Result) -> None:
        """Close the bar and print the scores."""
        self._close()
        self.console.print(f"  {run.title}: {final_scores(result.facts['student'], self._headline)}", soft_wrap=True)

    @hookimpl
    def kdengine_on_error(self, run: Run, error: BaseException) -> None:
        """Close the bar; after an interruption, print how to resume."""
        self._close()
        if isinstance(error, KeyboardInterrupt):
            self.console.print(f"Interrupted; {saved_part(run, error)}. To resume: {run.again}", soft_wrap=True)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._bar = None
