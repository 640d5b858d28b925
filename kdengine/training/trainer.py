"""The training loop: one stream of batches, one pass of each teacher a batch, every lane steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from kdengine.data.batches import Batch
from kdengine.errors import KDError, TrainingError
from kdengine.taps import Trace
from kdengine.taps.anatomy import TapPoint
from kdengine.taps.tensors import times_written
from kdengine.training.chain_step import TeacherQuery
from kdengine.training.evaluation import evaluate
from kdengine.training.lane import Lane
from kdengine.training.runtime import Runtime
from kdengine.training.signals import Stop

if TYPE_CHECKING:
    from kdengine.data.datamodule import DataModule
    from kdengine.runs.run import Run

__all__ = ["fit"]

SHARED = "All lanes and methods read the same tensors: write into a copy, tensor.clone(), instead."


def fit(runs: Sequence[Run], source: DataModule, finish: Callable[[Run], None], stop: Stop) -> None:
    """Train every lane to its end.

    A lane that fails is taken out; the others go on. Lanes that are behind, after an interruption, catch up first.

    Args:
        runs: one for each lane.
        source: batches.
        finish: called for each run when its lane is at its end or has failed.
        stop: whether to go on.

    Raises:
        Stopped: it was asked for; every lane is between two steps.
        TrainingError: the teacher is no longer what it was.
    """
    unfinished = list(runs)

    def let_go() -> None:
        """Finish what is at its end or has failed, at once."""
        for run in [run for run in unfinished if run.lane.finished]:
            unfinished.remove(run)
            finish(run)

    let_go()
    while unfinished:
        epoch = min(len(run.lane.history) for run in unfinished)
        _epoch([run for run in unfinished if len(run.lane.history) == epoch], source, epoch, stop, let_go)
        let_go()


def _epoch(runs: Sequence[Run], source: DataModule, epoch: int, stop: Stop, let_go: Callable[[], None]) -> None:
    """One epoch of all lanes, or what is left of it, each batch shown to every teacher once."""
    for run in runs:
        run.lane.begin_epoch()
    start = min(run.lane.steps_done for run in runs)
    for done, batch in enumerate(source.train.epoch(epoch, start), start + 1):
        now = [run for run in runs if run.lane.steps_done == done - 1 and run.lane.failure is None]
        _all_step([run.lane for run in now], Batch(runs[0].runtime.layout(batch.x), batch.y, batch.index))
        let_go()
        if all(run.lane.failure for run in runs):
            return  # nobody is left to learn from the rest of the epoch
        for run in [run for run in now if run.lane.failure is None]:
            run.hook.kdengine_after_step(run=run, done=done, total=len(source.train))
        stop.check()
    going_on = [run for run in runs if run.lane.failure is None]
    for teacher in {run.lane.teacher_query.teacher for run in going_on if run.lane.teacher_query is not None}:
        teacher.check_unchanged()
    for run in going_on:
        run.hook.kdengine_after_epoch(run=run, record=_end_epoch(run.lane, source, run.runtime, stop))


def _all_step(lanes: Sequence[Lane], batch: Batch) -> None:
    before = _written(batch)
    traces = _teach(lanes, batch.x)
    if _written(batch) != before:
        raise TrainingError(f"The teacher writes into its images. {SHARED}")
    shown = {teacher_query: trace.versions() for teacher_query, trace in traces.items()}
    for lane in lanes:
        _step(lane, batch, traces)
        if lane.teacher_query is not None:
            lane.teacher_query.teacher.check_untouched(lane.name)
        if _written(batch) != before:
            raise TrainingError(f"{lane.name}: a step wrote into the images or labels. {SHARED}")
        for teacher_query, versions in shown.items():
            if not versions.items() <= traces[teacher_query].versions().items():
                raise TrainingError(f"{lane.name}: a step wrote into what the teacher showed. {SHARED}")


def _written(batch: Batch) -> list[int]:
    """How often the tensors of a batch have been written to."""
    return [times_written(tensor) for tensor in (batch.x, batch.y, batch.index) if tensor is not None]


def _teach(lanes: Sequence[Lane], images: Tensor) -> dict[TeacherQuery, Trace]:
    """One pass of every teacher that a lane needs now, with the union of the taps that its lanes need."""
    wanted: dict[TeacherQuery, dict[str, TapPoint]] = {}
    for lane in lanes:
        if lane.teacher_query is not None:
            wanted.setdefault(lane.teacher_query, {}).update(lane.phase.teacher_points)
    return {
        teacher_query: teacher_query.teacher.trace(images, points, teacher_query.input_gradients)
        for teacher_query, points in wanted.items()
    }


def _step(lane: Lane, batch: Batch, traces: Mapping[TeacherQuery, Trace]) -> None:
    try:
        lane.step(batch, None if lane.teacher_query is None else traces[lane.teacher_query])
    except Exception as error:  # one lane's fault must not end the others
        if lane.runtime.processes > 1 and not isinstance(error, KDError):
            raise  # the other processes may not have it, and would wait for this one for ever
        if len(batch.y) == 1 and isinstance(error, ValueError):
            error = TrainingError(
                f"{lane.name}: a network cannot be trained on a batch of one image: {error} The last batch is what the others "
                "leave over: choose another train.batch_size."
            )
        lane.fail(error)


def _end_epoch(lane: Lane, source: DataModule, runtime: Runtime, stop: Stop) -> dict[str, Any]:
    """Measure the accuracy, where the phase went as far as the logits, and close the epoch."""
    start = time.perf_counter()
    measured: dict[str, float] = {}
    if lane.phase.task:
        for split, batches in (("val", source.validation), ("test", source.test)):
            found = {} if batches is None else evaluate(lane.module.preprocessed, batches, runtime, stop.check)
            measured.update({f"{split}_{name}": value for name, value in found.items()})
    return lane.end_epoch(measured, time.perf_counter() - start)
