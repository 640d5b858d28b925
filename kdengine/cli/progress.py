"""Progress of a run: a live bar on a terminal, one line an epoch elsewhere. An observer like any other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from kdengine.plugins.hookspecs import hookimpl
from kdengine.training.signals import Stopped

if TYPE_CHECKING:
    from kdengine.runs.result import Result
    from kdengine.runs.run import Run

__all__ = ["LanesProgress", "ProgressBar"]


class ProgressBar:
    """Shows how far a run is, on standard error."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False, markup=False)
        self._bar: Progress | None = None
        self._task = TaskID(0)

    @hookimpl
    def kdengine_before_fit(self, run: Run) -> None:
        """Say what is going to be trained, and for how long."""
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
        """One line with the losses and the accuracy."""
        if self._bar is not None:
            self._bar.update(self._task, last=f"{_accuracy(record)}  {_terms(record)}".strip())
        else:
            self.console.print(f"  {_line(run, record)}", soft_wrap=True)

    @hookimpl
    def kdengine_after_fit(self, run: Run, result: Result) -> None:
        """Close the bar and say the accuracy."""
        self._close()
        self.console.print(f"  {run.title}: test top-1 {result.top1:.2f} % (best {result.best_top1:.2f} %)", soft_wrap=True)

    @hookimpl
    def kdengine_on_error(self, run: Run, error: BaseException) -> None:
        """Close the bar; after an interruption, say how to go on."""
        self._close()
        if isinstance(error, KeyboardInterrupt):
            self.console.print(f"Interrupted; {_saved(run, error)}. To go on: {run.again}", soft_wrap=True)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._bar = None


class LanesProgress:
    """Says how far the lanes of a comparison are, one line a lane and epoch, on standard error."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False, markup=False)
        self._advised = False

    @hookimpl
    def kdengine_before_fit(self, run: Run) -> None:
        """Say which lane begins."""
        kind = "training" if run.settings.teacher is None else "distilling"
        text = f"{_place(run)}: {kind} {run.title}, {run.total_epochs} epochs, seed {run.settings.seed}"
        self.console.print(text, soft_wrap=True)

    @hookimpl
    def kdengine_after_epoch(self, run: Run, record: dict[str, Any]) -> None:
        """One line with the losses and the accuracy."""
        self.console.print(f"  {_place(run)}: {_line(run, record)}", soft_wrap=True)

    @hookimpl
    def kdengine_on_error(self, run: Run, error: BaseException) -> None:
        """Say why a lane failed; after an interruption, how to go on."""
        stopped = isinstance(error, KeyboardInterrupt)
        text = f"interrupted; {_saved(run, error)}" if stopped else f"failed: {error}"
        self.console.print(f"{_place(run)}: {text}", soft_wrap=True)
        if stopped and not self._advised:
            self._advised = True  # one line for all lanes
            self.console.print(f"To go on: {run.again}", soft_wrap=True)


def _place(run: Run) -> str:
    """Trial and lane, ``trial-1 rkd``; of the teacher's own training, its name."""
    trial = run.folder.path.parent.name
    return f"{trial} {run.lane.name}" if trial.startswith("trial-") else run.settings.student


def _saved(run: Run, error: BaseException) -> str:
    """What of a run is not lost."""
    steps = run.lane.steps_done if isinstance(error, Stopped) and run.can_save_within_epochs else 0
    within = f" and {steps} steps of the next one" if steps else ""
    return f"{len(run.lane.history)} finished epochs{within} are saved"


def _columns(run: Run) -> Sequence[ProgressColumn]:
    """Of the bar; on a narrow terminal it is the losses that are cut short."""
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


def _line(run: Run, record: Mapping[str, Any]) -> str:
    """What is worth knowing of an epoch."""
    phase = "" if record["phase"] == "joint" else f" {record['phase']}"
    width = len(str(run.total_epochs))
    epoch = f"epoch {record['epoch']:>{width}}/{run.total_epochs}{phase}"
    return f"{epoch}{_accuracy(record)}  {_terms(record)}  {record['seconds']:.1f} s"


def _accuracy(record: Mapping[str, Any]) -> str:
    splits = [split for split in ("val", "test") if f"{split}_top1" in record]
    return "".join(f"  {split} {record[f'{split}_top1']:.2f} %" for split in splits)
