"""Progress of a run: a live bar on a terminal, one line per epoch elsewhere. An observer like any other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from kdengine.plugins.hookspecs import hookimpl
from kdengine.report.pastrun import scoring_in
from kdengine.storage.scores import CLASSIFICATION, Measure
from kdengine.training.signals import Stopped

if TYPE_CHECKING:
    from kdengine.runs.result import Result
    from kdengine.runs.run import Run

__all__ = ["LanesProgress", "ProgressBar"]


class ProgressBar:
    """Shows the progress of a run on standard error."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False, markup=False)
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
            Text.assemble((kind, "bold"), f" {run.title}: {run.total_epochs} epochs on {facts['device']} in "),
            f"{facts['precision']}, seed {run.settings.seed}",
            sep="",
            soft_wrap=True,
        )
        if self.console.is_terminal:
            self._bar = Progress(*_columns(run), console=self.console, transient=True, expand=True)
            self._task = self._bar.add_task("", total=run.total_epochs, last="")
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
        """One line with the losses and the headline score."""
        if self._bar is not None:
            self._bar.update(self._task, last=f"{_scores(record, self._headline)}  {_terms(record)}".strip())
        else:
            self.console.print(f"  {_line(run, record, self._headline)}", soft_wrap=True)

    @hookimpl
    def kdengine_after_fit(self, run: Run, result: Result) -> None:
        """Close the bar and print the scores."""
        self._close()
        self.console.print(f"  {run.title}: {_final(result.facts['student'], self._headline)}", soft_wrap=True)

    @hookimpl
    def kdengine_on_error(self, run: Run, error: BaseException) -> None:
        """Close the bar; after an interruption, print how to resume."""
        self._close()
        if isinstance(error, KeyboardInterrupt):
            self.console.print(f"Interrupted; {_saved(run, error)}. To resume: {run.again}", soft_wrap=True)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._bar = None


class LanesProgress:
    """Shows the progress of the lanes of a comparison on standard error, one line per lane and epoch."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False, markup=False)
        self._headline = CLASSIFICATION.headline
        self._advised = False

    @hookimpl
    def kdengine_before_fit(self, run: Run) -> None:
        """Announce a lane."""
        self._headline = scoring_in(run.folder.manifest()).headline  # the same for all lanes: they share their data
        kind = "training" if run.settings.teacher is None else "distilling"
        text = f"{_label(run)}: {kind} {run.title}, {run.total_epochs} epochs, seed {run.settings.seed}"
        self.console.print(text, soft_wrap=True)

    @hookimpl
    def kdengine_after_epoch(self, run: Run, record: dict[str, Any]) -> None:
        """One line with the losses and the headline score."""
        self.console.print(f"  {_label(run)}: {_line(run, record, self._headline)}", soft_wrap=True)

    @hookimpl
    def kdengine_on_error(self, run: Run, error: BaseException) -> None:
        """Print why a lane failed; after an interruption, how to resume."""
        stopped = isinstance(error, KeyboardInterrupt)
        text = f"interrupted; {_saved(run, error)}" if stopped else f"failed: {error}"
        self.console.print(f"{_label(run)}: {text}", soft_wrap=True)
        if stopped and not self._advised:
            self._advised = True  # one line for all lanes
            self.console.print(f"To resume: {run.again}", soft_wrap=True)


def _label(run: Run) -> str:
    """Trial and lane, ``trial-1 rkd``; while the teacher itself is trained, its name."""
    trial = run.folder.path.parent.name
    return f"{trial} {run.lane.name}" if trial.startswith("trial-") else run.settings.student


def _saved(run: Run, error: BaseException) -> str:
    """What of a run has been saved."""
    steps = run.lane.steps_done if isinstance(error, Stopped) and run.can_save_within_epochs else 0
    within = f" and {steps} steps of the next one" if steps else ""
    return f"{len(run.lane.history)} finished epochs{within} are saved"


def _columns(run: Run) -> Sequence[ProgressColumn]:
    """Columns of the bar; on a narrow terminal, the losses are truncated."""
    epochs = Column(no_wrap=True, min_width=len(f"epoch {run.total_epochs}/{run.total_epochs}"))
    last = Column(no_wrap=True, overflow="ellipsis", ratio=1)
    return (
        TextColumn("{task.description}", table_column=epochs),
        BarColumn(bar_width=20),
        TimeRemainingColumn(),
        TextColumn("{task.fields[last]}", table_column=last),
    )


def _terms(record: Mapping[str, Any]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in record["terms"].items())


def _line(run: Run, record: Mapping[str, Any], headline: Measure) -> str:
    """An epoch in one line."""
    phase = "" if record["phase"] == "joint" else f" {record['phase']}"
    width = len(str(run.total_epochs))
    epoch = f"epoch {record['epoch']:>{width}}/{run.total_epochs}{phase}"
    return f"{epoch}{_scores(record, headline)}  {_terms(record)}  {record['seconds']:.1f} s"


def _scores(record: Mapping[str, Any], headline: Measure) -> str:
    """``  val 87.50 %  test 86.11 %``; nothing for an epoch in which nothing was measured."""
    scores = {split: record.get(f"{split}_{headline.name}") for split in ("val", "test")}
    return "".join(f"  {split} {headline.shown(score)}" for split, score in scores.items() if score is not None)


def _final(student: Mapping[str, Any], headline: Measure) -> str:
    """``test top-1 87.50 % (best 90.00 %)``."""
    last, best = student.get(headline.name), student.get(f"best_{headline.name}")
    if last is None or best is None:
        return "nothing was measured"
    return f"test {headline.label} {headline.shown(last)} (best {headline.shown(best)})"
