"""The training loop: one stream of batches, one pass of each teacher a batch, every lane steps."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
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


def fit(run: Run, lanes: Sequence[Lane], source: Source) -> None:
    """Train every lane to its end.

    A lane that fails is taken out; the others go on.
    """
    epoch = min((len(lane.history) for lane in lanes), default=0)
    while running := [lane for lane in lanes if not lane.finished]:
        for lane in running:
            lane.begin_epoch()
        for done, batch in enumerate(source.train.epoch(epoch), 1):
            batch = Batch(run.runtime.layout(batch.x), batch.y, batch.index)
            traces = _teach(running, batch.x)
            for lane in running:
                _step(lane, batch, traces)
            if all(lane.failure for lane in running):
                break  # nobody is left to learn from the rest of the epoch
            run.hook.kdengine_after_step(run=run, done=done, total=len(source.train))
        for lane in running:
            if lane.failure is None:
                run.hook.kdengine_after_epoch(run=run, record=_end_epoch(lane, source, run.runtime))
        epoch += 1


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
            found = {} if batches is None else evaluate(lane.learner, batches, runtime)
            measured.update({f"{split}_{name}": value for name, value in found.items()})
    return lane.end_epoch(measured, time.perf_counter() - start)
