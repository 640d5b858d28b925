"""Progress of many lanes: one table that is redrawn, or a line for each lane and epoch where nothing can be redrawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar as Bar
from rich.table import Table
from rich.text import Text

from kdengine.plugins.hookspecs import hookimpl
from kdengine.progress.lines import epoch_line, label_of_run, saved_part
from kdengine.progress.screen import can_redraw, new_console
from kdengine.report.pastrun import scoring_in
from kdengine.storage.scores import CLASSIFICATION

if TYPE_CHECKING:
    from kdengine.runs.result import Result
    from kdengine.runs.run import Run

__all__ = ["LanesProgress"]

AROUND = 5
"""Lines of the screen that the table leaves free for its head and what stands above and below."""


@dataclass
class _Row:
    """A lane in the table."""

    label: str
    total: int
    epochs: float = 0.0
    last: float | None = None
    best: float | None = None
    loss: float | None = None
    seconds: float = 0.0
    news: str = ""
    open: bool = True


class LanesProgress:
    """Shows the progress of the lanes of a comparison on standard error."""

    def __init__(self) -> None:
        self.console = new_console()
        self._headline = CLASSIFICATION.headline
        self._advised = False
        self._live: Live | None = None
        self._rows: dict[str, _Row] = {}

    @hookimpl
    def kdengine_before_fit(self, run: Run) -> None:
        """Announce a lane."""
        self._headline = scoring_in(run.folder.manifest()).headline  # the same for all lanes: they share their data
        label = label_of_run(run)
        if can_redraw(self.console):
            self._rows[label] = _Row(label, run.total_epochs, epochs=len(run.lane.history))
            if self._live is None:
                self._live = Live(get_renderable=self._table, console=self.console, refresh_per_second=4)
                self._live.start()
            return
        kind = "training" if run.settings.teacher is None else "distilling"
        self._say(f"{label}: {kind} {run.title}, {run.total_epochs} epochs, seed {run.settings.seed}")

    @hookimpl
    def kdengine_after_step(self, run: Run, done: int, total: int) -> None:
        """Move the bar of a lane."""
        if self._live is not None:
            self._rows[label_of_run(run)].epochs = len(run.lane.history) + done / total

    @hookimpl
    def kdengine_after_epoch(self, run: Run, record: dict[str, Any]) -> None:
        """The loss and the headline score."""
        if self._live is None:
            self._say(f"  {label_of_run(run)}: {epoch_line(run, record, self._headline)}")
            return
        row, score = self._rows[label_of_run(run)], record.get(f"test_{self._headline.name}")
        row.epochs, row.loss = len(run.lane.history), sum(record["terms"].values())
        row.seconds += record["seconds"]
        if score is not None:
            row.last = score
            row.best = score if row.best is None or self._headline.better(score, row.best) else row.best

    @hookimpl
    def kdengine_after_fit(self, run: Run, result: Result) -> None:
        """A lane is done."""
        self._end(run, "done")

    @hookimpl
    def kdengine_on_error(self, run: Run, error: BaseException) -> None:
        """Say why a lane failed; after an interruption, how to resume."""
        stopped = isinstance(error, KeyboardInterrupt)
        text = f"interrupted; {saved_part(run, error)}" if stopped else f"failed: {error}"
        if not self._end(run, "interrupted" if stopped else f"failed: {' '.join(str(error).split())}"):
            self._say(f"{label_of_run(run)}: {text}")
        if stopped and not self._advised:
            self._advised = True  # one line for all lanes
            self._say(f"To resume: {run.again}")

    def _say(self, text: str) -> None:
        self.console.print(text, soft_wrap=True)

    def _end(self, run: Run, news: str) -> bool:
        """Mark a lane of the table as ended; after the last one, leave the table as it is. False without a table."""
        row = self._rows.get(label_of_run(run))
        if self._live is None or row is None:
            return False
        row.news, row.open = news, False
        if not any(other.open for other in self._rows.values()):
            self._live.stop()
            self._live = None
            self._rows.clear()
        return True

    def _table(self) -> Group:
        """All lanes, or as many as fit on the screen, those in training first; below them, why lanes failed."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        headline = self._headline
        table.add_column("lane", overflow="fold", ratio=1)
        for head in ("epoch", "", f"test {headline.label}", "best", "loss", "time"):
            table.add_column(head, justify="right", no_wrap=True)
        rows = list(self._rows.values())
        fitting = max(1, self.console.height - AROUND)
        shown = rows if len(rows) <= fitting else sorted(rows, key=lambda row: not row.open)[:fitting]
        for row in shown:
            scores = ("" if score is None else headline.shown(score) for score in (row.last, row.best))
            bar = Bar(total=row.total, completed=row.epochs, width=10)
            loss = "" if row.loss is None else f"{row.loss:.3g}"
            table.add_row(Text(row.label), f"{int(row.epochs)}/{row.total}", bar, *scores, loss, f"{row.seconds:.0f} s")
        below = [f"{row.label} {row.news}" for row in shown if row.news.startswith("failed")]
        below += [f"and {len(rows) - len(shown)} more lanes"] if len(shown) < len(rows) else []
        return Group(table, *map(Text, below))
