"""Train runs: one, several side by side, and the teachers first that have no weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from kdengine.config.settings import Settings
from kdengine.data.datamodule import DataModule
from kdengine.errors import DataError
from kdengine.runs.plan import Plan
from kdengine.runs.ready_teachers import ready_teachers
from kdengine.runs.result import Result
from kdengine.runs.run import Run
from kdengine.runs.session import Session
from kdengine.runs.start import Start, enter, start_in
from kdengine.runs.store_forecast import Forecast, read_of_teacher
from kdengine.runs.taught import measured_by_teacher
from kdengine.training.lane import Lane
from kdengine.training.peers import told_by_peer
from kdengine.training.rng import gaussian_kept
from kdengine.training.signals import Stopped, listening, saved_so_far
from kdengine.training.trainer import Trainer

__all__ = ["train_all", "train_one", "train_plan", "train_teacher"]

log = logging.getLogger(__name__)


def train_plan(plan: Plan, start: Start, advice: str = "") -> Result:
    """Carry out a plan, and warn if its numbers mean nothing; teachers without weights are trained first.

    Args:
        plan: the plan of the run.
        start: fresh, or from a saved state.
        advice: custom resume instructions.
    """
    session, store = plan.session, plan.store
    if store is not None:
        Forecast.of(store, *read_of_teacher(plan.lane)).check()
    teacher = ready_teachers(session, plan.lane.needs_teacher, partial(train_teacher, session))
    if store is not None:
        store.open(session.settings.seed, teacher)
    run = session.run(plan.settings, plan.lane, plan.folder, advice)
    enter(run, start, session.facts(teacher if plan.settings.teacher else None))
    result = train_one(run, measured_by_teacher(session), teacher)
    for warning in result.warnings if run.runtime.is_main else ():
        log.warning("%s: %s", run.title, warning)
    return result


def train_teacher(session: Session, settings: Settings, folder: Path) -> None:
    """Train a teacher of the session into a cache folder, or resume that training; other processes wait for it."""
    own = Session.open(settings, session.registry, data=session.data.dataset, observers=session.observers, alone=True)
    start = start_in(folder)
    plan = Plan.of(own, {}, start.folder(folder.name), "plain")
    train_plan(plan, start, "run the same command again; the teacher's training resumes where it stopped")


def train_one(run: Run, data: DataModule, teacher: Mapping[str, Any] | None) -> Result:
    """Train one run; if it fails, its error is raised.

    Args:
        run: the run; its folder exists.
        data: batches for training and evaluation.
        teacher: facts about the teacher for the result.
    """
    results = train_all([run], data, teacher)
    failure = run.lane.failure
    if failure is not None:
        if run.lane.history:
            changed = " --override -o NAME=VALUE" if " --resume " in run.again else ""
            failure.add_note(f"{_saved_epochs(run)} To resume with changed settings: {run.again}{changed}")
        raise failure
    return results[run.lane]


def train_all(runs: Sequence[Run], data: DataModule, teacher: Mapping[str, Any] | None) -> dict[Lane, Result]:
    """Train runs side by side and call their observers.

    Args:
        runs: the runs; their folders exist.
        data: batches for training and evaluation.
        teacher: facts about the teacher for the results.

    Returns:
        lane -> result, for the runs that did not fail.
    """
    board, peers = _Board(runs, data, teacher), runs[0].runtime.peers if runs else None
    try:
        with gaussian_kept(), listening(peers) as stop:
            for run in runs:
                run.hooks.kdengine_before_fit(run=run)
            try:
                Trainer([run.lane for run in runs], data, board, stop).fit()
            except DataError as fault:
                if not stop.asked or stop.is_shared:
                    raise
                raise Stopped from fault  # the signal that asked this process to stop also ended its data workers
    except BaseException as raised:
        error = raised if peers is None else told_by_peer(raised)
        unfinished = [run for run in runs if run.lane not in board.results and run.lane.failure is None]
        secondary = [failure for run in unfinished if (failure := _report_error(run, error)) is not None]
        if peers is not None and isinstance(error, Stopped):
            peers.part()  # a launcher ends all processes as soon as one has ended
        if secondary and isinstance(error, Stopped):
            raise told_by_peer(secondary[0]) from error  # the state could not be saved
        if error is not raised:
            raise error from raised
        raise
    finally:
        for run in runs:
            run.lane.retire()
            run.folder.free()
    return board.results


class _Board:
    """Forwards lane events to the hooks of their runs, and collects the results."""

    def __init__(self, runs: Sequence[Run], data: DataModule, teacher: Mapping[str, Any] | None) -> None:
        self.results: dict[Lane, Result] = {}
        self._runs = {run.lane: run for run in runs}
        self._data = data
        self._teacher = teacher

    def after_step(self, lane: Lane, done: int, total: int) -> None:
        """Call the hook of the lane's run."""
        run = self._runs[lane]
        run.hooks.kdengine_after_step(run=run, done=done, total=total, terms=lane.meter.step_terms)

    def after_epoch(self, lane: Lane, record: dict[str, Any]) -> None:
        """Call the hook of the lane's run."""
        run = self._runs[lane]
        run.hooks.kdengine_after_epoch(run=run, record=record)

    def ended(self, lane: Lane) -> None:
        """Report the result or failure of a lane that has ended."""
        run = self._runs[lane]
        lane.retire()
        result = self._result(run)
        if result is None:
            assert lane.failure is not None
            _report_error(run, lane.failure)
            return
        run.hooks.kdengine_after_fit(run=run, result=result)
        self.results[lane] = result

    def _result(self, run: Run) -> Result | None:
        """The result, or None if the lane failed, which can happen as late as in a method's ``deploy``."""
        if run.lane.failure is not None:
            return None
        teacher = self._teacher if run.settings.teacher else None
        try:
            chance = run.lane.task.chance(self._data.test_targets)
            return Result.from_lane(run.lane, run.settings, run.folder.path, teacher, self._data.describe(), chance)
        except Exception as error:
            run.lane.fail(error)
            return None


def _report_error(run: Run, error: BaseException) -> Exception | None:
    """Call the error hooks of a run; an error raised by a hook is noted on the original error and returned."""
    hook_error = None
    try:
        run.hooks.kdengine_on_error(run=run, error=error)
    except Exception as raised:
        error.add_note(f"and then: {type(raised).__name__}: {raised}")
        hook_error = raised
    if isinstance(error, Exception) and run.lane.failure is None and run.lane.history and not run.folder.is_finished:
        note = f"{_saved_epochs(run)} To resume: {run.again}"
        if note not in getattr(error, "__notes__", ()):  # lanes side by side add the same note
            error.add_note(note)
    return hook_error


def _saved_epochs(run: Run) -> str:
    saved = len(run.folder.metrics()) if run.folder.state_file.exists() else 0
    return f"{saved_so_far(saved)}."
