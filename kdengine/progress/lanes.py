"""Progress of many lanes: one table that is redrawn, or a line for each lane and epoch where nothing can be redrawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kdengine.errors import counted
from kdengine.plugins.hookspecs import hookimpl
from kdengine.progress.lane_table import LaneTable
from kdengine.progress.lines import epoch_line, label_of_run, news_of, saved_part
from kdengine.report.pastrun import scoring_in

if TYPE_CHECKING:
    from kdengine.runs.result import Result
    from kdengine.runs.run import Run

__all__ = ["LanesProgress"]


class LanesProgress(LaneTable):
    """Shows the progress of the lanes of a comparison on standard error."""

    def __init__(self) -> None:
        super().__init__()
        self._advised = False

    @hookimpl
    def kdengine_before_fit(self, run: Run) -> None:
        """Announce a lane."""
        self._headline = scoring_in(run.folder.manifest()).headline  # the same for all lanes: they share their data
        label = label_of_run(run)
        if self._add(label, run.total_epochs, len(run.lane.history)):
            return
        kind = "training" if run.settings.teacher is None else "distilling"
        self._say(f"{label}: {kind} {run.title}, {counted(run.total_epochs, 'epoch')}, seed {run.settings.seed}")

    @hookimpl
    def kdengine_after_step(self, run: Run, done: int, total: int) -> None:
        """Move the bar of a lane."""
        self._move(label_of_run(run), len(run.lane.history) + done / total)

    @hookimpl
    def kdengine_after_epoch(self, run: Run, record: dict[str, Any]) -> None:
        """The loss and the headline score."""
        label = label_of_run(run)
        if self._live is None:
            self._say(f"  {label}: {epoch_line(run, record, self._headline)}")
            return
        score = record.get(f"test_{self._headline.name}")
        self._measured(label, len(run.lane.history), sum(record["terms"].values()), record["seconds"], score)

    @hookimpl
    def kdengine_after_fit(self, run: Run, result: Result) -> None:
        """A lane is done."""
        self._end(label_of_run(run), "done")

    @hookimpl
    def kdengine_on_error(self, run: Run, error: BaseException) -> None:
        """Say why a lane failed; after an interruption, how to resume."""
        stopped, label = isinstance(error, KeyboardInterrupt), label_of_run(run)
        text = f"interrupted; {saved_part(run, error)}" if stopped else f"failed: {error}"
        if not self._end(label, news_of(error)):
            self._say(f"{label}: {text}")
        if stopped and not self._advised:
            self._advised = True  # one line for all lanes
            self._say(f"To resume: {run.again}")
