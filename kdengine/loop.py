"""The training loop: one stream of batches, one pass of each teacher a batch, every lane steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from kdengine.batches import Batch
from kdengine.evaluation import evaluate
from kdengine.lane import Lane
from kdengine.link import Lesson
from kdengine.runtime import Runtime
from kdengine.taps import Trace
from kdengine.taps.anatomy import Site

if TYPE_CHECKING:
    from kdengine.run import Run
    from kdengine.source import Source

__all__ = ["fit"]


def fit(runs: Sequence[Run], source: Source, finish: Callable[[Run], None]) -> None:
    """Train every lane to its end.

    A lane that fails is taken out; the others go on. Lanes that are behind, after an interruption, catch up first.

    Args:
        runs: one for each lane.
        source: batches.
        finish: called for each run when its lane is at its end or has failed.
    """
    unfinished = list(runs)
    while unfinished:
        ended = [run for run in unfinished if run.lane.finished]
        for run in ended:
            finish(run)
        unfinished = [run for run in unfinished if run not in ended]
        epoch = min((len(run.lane.history) for run in unfinished), default=0)
        _epoch([run for run in unfinished if len(run.lane.history) == epoch], source, epoch)


def _epoch(runs: Sequence[Run], source: Source, epoch: int) -> None:
    """One epoch of all lanes, each batch shown to every teacher once."""
    lanes = [run.lane for run in runs]
    for lane in lanes:
        lane.begin_epoch()
    for done, batch in enumerate(source.train.epoch(epoch) if lanes else (), 1):
        batch = Batch(runs[0].runtime.layout(batch.x), batch.y, batch.index)
        traces = _teach(lanes, batch.x)
        for lane in lanes:
            _step(lane, batch, traces)
        if all(lane.failure for lane in lanes):
            return  # nobody is left to learn from the rest of the epoch
        for run in runs:
            run.hook.kdengine_after_step(run=run, done=done, total=len(source.train))
    for run in runs:
        if run.lane.failure is None:
            run.hook.kdengine_after_epoch(run=run, record=_end_epoch(run.lane, source, run.runtime))


def _teach(lanes: Sequence[Lane], images: Tensor) -> dict[Lesson, Trace]:
    """One pass of every teacher that a lane needs now, with the union of the taps that its lanes need."""
    wanted: dict[Lesson, dict[str, Site]] = {}
    for lane in lanes:
        if lane.lesson is not None and lane.failure is None:
            wanted.setdefault(lane.lesson, {}).update(lane.phase.teacher_sites)
    return {lesson: lesson.teacher.trace(images, sites, lesson.input_gradients) for lesson, sites in wanted.items()}


def _step(lane: Lane, batch: Batch, traces: Mapping[Lesson, Trace]) -> None:
    if lane.failure is not None:
        return
    try:
        lane.step(batch, None if lane.lesson is None else traces[lane.lesson])
    except Exception as error:  # one lane's fault must not end the others
        lane.fail(error)


def _end_epoch(lane: Lane, source: Source, runtime: Runtime) -> dict[str, Any]:
    """Measure the accuracy, where the stage went as far as the logits, and close the epoch."""
    start = time.perf_counter()
    measured: dict[str, float] = {}
    if lane.phase.stage.task:
        for split, batches in (("val", source.validation), ("test", source.test)):
            found = {} if batches is None else evaluate(lane.module.fitted, batches, runtime)
            measured.update({f"{split}_{name}": value for name, value in found.items()})
    return lane.end_epoch(measured, time.perf_counter() - start)
