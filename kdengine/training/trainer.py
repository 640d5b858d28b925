"""The training loop: one stream of batches, one forward of each teacher a batch, every lane takes its step."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from torch import Tensor

from kdengine.data.batches import Batch
from kdengine.data.datamodule import DataModule
from kdengine.errors import KDError, TrainingError
from kdengine.taps import Trace
from kdengine.taps.anatomy import TapPoint
from kdengine.training.chain import TeacherQuery
from kdengine.training.evaluation import evaluate
from kdengine.training.integrity import Watch, check_teachers
from kdengine.training.lane import Lane
from kdengine.training.signals import Stop

__all__ = ["Trainer", "TrainingObserver"]


class TrainingObserver(Protocol):
    """What the trainer tells whoever keeps the runs."""

    def after_step(self, lane: Lane, done: int, total: int) -> None:
        """A lane took step ``done`` of the ``total`` of its epoch; all lanes are between two steps."""

    def after_epoch(self, lane: Lane, record: dict[str, Any]) -> None:
        """A lane closed an epoch; ``record`` is its row."""

    def ended(self, lane: Lane) -> None:
        """A lane has reached its end, or failed; called once for each."""


class Trainer:
    """Trains lanes side by side to their ends.

    A lane that fails is taken out, and the others continue. Lanes that are behind after an interruption catch up first.

    Args:
        lanes: with names of their own.
        data: batches to train on and to evaluate on.
        observer: is told of every step and epoch.
        stop: whether to continue.
    """

    def __init__(self, lanes: Sequence[Lane], data: DataModule, observer: TrainingObserver, stop: Stop) -> None:
        self.data = data
        self.observer = observer
        self.stop = stop
        self.unfinished = list(lanes)

    def fit(self) -> None:
        """Train every lane to its end.

        Raises:
            Stopped: it was asked for; every lane is between two steps.
            TrainingError: the teacher is no longer what it was.
        """
        self._release_ended()
        while self.unfinished:
            epoch = min(len(lane.history) for lane in self.unfinished)
            self.train_epoch([lane for lane in self.unfinished if len(lane.history) == epoch], epoch)
            self._release_ended()

    def train_epoch(self, lanes: Sequence[Lane], epoch: int) -> None:
        """One epoch of all lanes, or the rest of it."""
        for lane in lanes:
            lane.begin_epoch()
        start = min(lane.steps_done for lane in lanes)
        for done, batch in enumerate(self.data.train.epoch(epoch, start), start + 1):
            stepping = [lane for lane in lanes if lane.steps_done == done - 1 and lane.failure is None]
            self.train_step(stepping, replace(batch, x=lanes[0].runtime.layout(batch.x)))
            self._release_ended()
            if all(lane.failure for lane in lanes):
                return  # nobody is left to learn from the rest of the epoch
            for lane in stepping:
                if lane.failure is None:
                    self.observer.after_step(lane, done, len(self.data.train))
            self.stop.check()
        trained = [lane for lane in lanes if lane.failure is None]
        check_teachers(trained)
        for lane in trained:
            record = self.close_epoch(lane)
            if record is not None:
                self.observer.after_epoch(lane, record)

    def train_step(self, lanes: Sequence[Lane], batch: Batch) -> None:
        """Show a batch to every teacher once, then let every lane take its step."""
        watch = Watch(batch)
        traces = watch.teachers(_ask_teachers(lanes, batch.x))
        for lane in lanes:
            with watch.lane(lane):
                _step(lane, batch, traces)

    def close_epoch(self, lane: Lane) -> dict[str, Any] | None:
        """Measure a lane, where its phase has the task, and close its epoch; the row, or None where the lane failed."""
        start = time.perf_counter()
        scores: dict[str, float] = {}
        if lane.phase.task:
            try:
                network = lane.to_measure()
            except Exception as error:  # a method may fail in making the network to ship
                lane.fail(error)
                return None
            for split, batches in (("val", self.data.validation), ("test", self.data.test)):
                if batches is not None:
                    values = evaluate(network, batches, lane.task, lane.runtime, self.stop.check)
                    scores.update({f"{split}_{name}": value for name, value in values.items()})
        return lane.end_epoch(scores, time.perf_counter() - start)

    def _release_ended(self) -> None:
        """Hand over the lanes that are at their end or have failed, at once."""
        for lane in [lane for lane in self.unfinished if lane.finished]:
            self.unfinished.remove(lane)
            self.observer.ended(lane)


def _ask_teachers(lanes: Sequence[Lane], images: Tensor) -> dict[TeacherQuery, Trace]:
    """One forward of every teacher that a lane needs now, with the union of the taps that its lanes read."""
    wanted: dict[TeacherQuery, dict[str, TapPoint]] = {}
    for lane in lanes:
        if lane.teacher_query is not None:
            wanted.setdefault(lane.teacher_query, {}).update(lane.phase.teacher_points)
    return {query: query.teacher.trace(images, points, query.input_gradients) for query, points in wanted.items()}


def _step(lane: Lane, batch: Batch, traces: Mapping[TeacherQuery, Trace]) -> None:
    """One step of a lane; what goes wrong in it fails that lane alone."""
    query = lane.teacher_query
    try:
        lane.step(batch, None if query is None else traces[query])
    except Exception as error:  # one lane's fault must not end the others
        if lane.runtime.processes > 1 and not isinstance(error, KDError):
            raise  # the other processes may not have it, and would wait for this one for ever
        if len(batch.x) == 1 and isinstance(error, ValueError):
            error = TrainingError(
                f"{lane.name}: a network cannot be trained on a batch of one image: {error} The last batch is what the others "
                "leave over: choose another train.batch_size."
            )
        lane.fail(error)
