"""Training runs to their ends: one, many side by side, and the teacher before them where it has no weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from kdengine.config.settings import Settings
from kdengine.data.datamodule import DataModule
from kdengine.errors import DataError
from kdengine.runs.plan import Plan
from kdengine.runs.result import Result
from kdengine.runs.run import Run
from kdengine.runs.session import Session
from kdengine.runs.start import Start, enter, start_in
from kdengine.training.lane import Lane
from kdengine.training.rng import gaussian_kept
from kdengine.training.signals import Stopped, listening
from kdengine.training.trainer import Trainer

__all__ = ["train_all", "train_one", "train_plan", "train_teacher"]


def train_plan(plan: Plan, start: Start, advice: str = "") -> Result:
    """Train what was planned; the teacher is trained first where it has no weights.

    Args:
        plan: the run.
        start: anew, or from a saved state.
        advice: custom resume instructions.
    """
    session = plan.session
    teacher = session.ready_teacher(plan.lane.needs_teacher, partial(train_teacher, session))
    run = session.run(plan.settings, plan.lane, plan.folder, advice)
    enter(run, start, session.facts(teacher if plan.settings.teacher else None))
    return train_one(run, session.data, teacher)


def train_teacher(session: Session, settings: Settings, folder: Path) -> None:
    """Train the teacher of a session by itself into a folder of the cache, or resume that; other processes wait for it."""
    own = Session.open(settings, session.registry, data=session.data.dataset, observers=session.observers, alone=True)
    start = start_in(folder)
    plan = Plan.of(own, {}, start.folder(folder.name), "plain")
    train_plan(plan, start, "the same command: the teacher's training goes on where it stopped")


def train_one(run: Run, data: DataModule, teacher: Mapping[str, Any] | None) -> Result:
    """Train one run; what fails it is raised.

    Args:
        run: the run; its folder is made.
        data: batches to train on and to evaluate on.
        teacher: what the result says of the teacher.
    """
    results = train_all([run], data, teacher)
    failure = run.lane.failure
    if failure is not None:
        if run.lane.history:
            changed = " --override -o NAME=VALUE" if run.again.startswith("kdengine ") else ""
            failure.add_note(f"{_kept(run)} To resume with changed settings: {run.again}{changed}")
        raise failure
    return results[run.lane.name]


def train_all(runs: Sequence[Run], data: DataModule, teacher: Mapping[str, Any] | None) -> dict[str, Result]:
    """Train runs side by side, under the eyes of their observers; the results, by lane, of those that did not fail.

    Args:
        runs: with lanes of different names; their folders are made.
        data: batches to train on and to evaluate on.
        teacher: what the results say of the teacher.
    """
    board = _Board(runs, data, teacher)
    try:
        with gaussian_kept(), listening(runs[0].runtime.processes if runs else 1) as stop:
            for run in runs:
                run.hooks.kdengine_before_fit(run=run)
            try:
                Trainer([run.lane for run in runs], data, board, stop).fit()
            except DataError as error:
                if not stop.asked:
                    raise
                raise Stopped from error  # who asked this process to stop has ended those that read its data
    except BaseException as error:
        unfinished = [run for run in runs if run.lane.name not in board.results and run.lane.failure is None]
        others = [another for run in unfinished if (another := _tell(run, error)) is not None]
        if others and isinstance(error, Stopped):
            raise others[0] from error  # what was to be saved is not
        raise
    finally:
        for run in runs:
            run.lane.retire()
            run.folder.free()
    return board.results


class _Board:
    """Passes what happens to the lanes on to the hooks of their runs, and collects the results."""

    def __init__(self, runs: Sequence[Run], data: DataModule, teacher: Mapping[str, Any] | None) -> None:
        self.results: dict[str, Result] = {}
        self._runs = {run.lane.name: run for run in runs}
        self._data = data
        self._teacher = teacher

    def after_step(self, lane: Lane, done: int, total: int) -> None:
        """Call the hook of the lane's run."""
        run = self._runs[lane.name]
        run.hooks.kdengine_after_step(run=run, done=done, total=total)

    def after_epoch(self, lane: Lane, record: dict[str, Any]) -> None:
        """Call the hook of the lane's run."""
        run = self._runs[lane.name]
        run.hooks.kdengine_after_epoch(run=run, record=record)

    def ended(self, lane: Lane) -> None:
        """Write the result as soon as there is one."""
        run = self._runs[lane.name]
        lane.retire()
        result = self._result(run)
        if result is None:
            assert lane.failure is not None
            _tell(run, lane.failure)
            return
        run.hooks.kdengine_after_fit(run=run, result=result)
        self.results[lane.name] = result

    def _result(self, run: Run) -> Result | None:
        """The result, or None of a lane that failed; a method may fail in making the network to ship."""
        if run.lane.failure is not None:
            return None
        teacher = self._teacher if run.settings.teacher else None
        try:
            return Result.from_lane(run.lane, run.settings, run.folder.path, teacher, self._data.describe())
        except Exception as error:
            run.lane.fail(error)
            return None


def _tell(run: Run, error: BaseException) -> Exception | None:
    """Tell the observers of a run why it ends; what fails in that must not hide the reason, and is returned."""
    failed = None
    try:
        run.hooks.kdengine_on_error(run=run, error=error)
    except Exception as another:
        error.add_note(f"and then: {type(another).__name__}: {another}")
        failed = another
    if isinstance(error, Exception) and run.lane.failure is None and run.lane.history and not run.folder.is_finished:
        note = f"{_kept(run)} To resume: {run.again}"
        if note not in getattr(error, "__notes__", ()):  # lanes side by side say the same
            error.add_note(note)
    return failed


def _kept(run: Run) -> str:
    kept = len(run.folder.metrics()) if run.folder.state_file.exists() else 0
    return f"{kept} finished epochs are saved."
