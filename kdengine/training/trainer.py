"""The training loop: for each batch, one forward of each teacher, then one step of each lane."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from torch import nn

from kdengine.data.batches import Batch
from kdengine.data.datamodule import DataModule
from kdengine.errors import DataError, KDError, TrainingError
from kdengine.taps import Trace
from kdengine.taps.anatomy import TapPoint
from kdengine.training.chain import TeacherQuery
from kdengine.training.evaluation import evaluate
from kdengine.training.integrity import Watch, check_teachers
from kdengine.training.lane import Lane
from kdengine.training.runtime import Runtime
from kdengine.training.shelf import Place
from kdengine.training.signals import Stop
from kdengine.training.steady import check_complete, steady

__all__ = ["Trainer", "TrainingObserver", "ask_teachers", "laid_out"]


class TrainingObserver(Protocol):
    """Receives the events of a trainer."""

    def after_step(self, lane: Lane, done: int, total: int) -> None:
        """A lane took step ``done`` of the ``total`` steps of its epoch; all lanes are between steps."""

    def after_epoch(self, lane: Lane, record: dict[str, Any]) -> None:
        """A lane completed an epoch; ``record`` is its row."""

    def ended(self, lane: Lane) -> None:
        """A lane has finished or failed; called once for each lane."""


class Trainer:
    """Trains lanes side by side until all have ended.

    A lane that fails is removed, and the others continue. After an interruption, lanes that are behind catch up first.

    Args:
        lanes: lanes with distinct names.
        data: batches for training and evaluation.
        observer: notified after every step and epoch.
        stop: requests to stop.
    """

    def __init__(self, lanes: Sequence[Lane], data: DataModule, observer: TrainingObserver, stop: Stop) -> None:
        self.data = data
        self.observer = observer
        self.stop = stop
        self.unfinished = list(lanes)

    def fit(self) -> None:
        """Train until every lane has ended.

        Raises:
            Stopped: a stop was requested; every lane is between two steps.
            TrainingError: the teacher has changed.
        """
        self._release_ended()
        while self.unfinished:
            epoch = min(len(lane.history) for lane in self.unfinished)
            self.train_epoch([lane for lane in self.unfinished if len(lane.history) == epoch], epoch)
            self._release_ended()

    def train_epoch(self, lanes: Sequence[Lane], epoch: int) -> None:
        """Train all lanes for one epoch, or for the rest of an interrupted one."""
        for lane in lanes:
            lane.begin_epoch()
        start = min(lane.steps_done for lane in lanes)
        batches, done = steady(self.data.training(max(lane.phase.views for lane in lanes)), self.stop), start
        for done, batch in enumerate(batches.epoch(epoch, start), start + 1):
            stepping = [lane for lane in lanes if lane.steps_done == done - 1 and lane.failure is None]
            self.train_step(stepping, laid_out(batch, lanes[0].runtime), Place(epoch, done - 1, index=batch.positions))
            self._release_ended()
            if all(lane.failure for lane in lanes):
                return  # no lane is left to train on the rest of the epoch
            for lane in stepping:
                if lane.failure is None:
                    self.observer.after_step(lane, done, len(self.data.train))
            self.stop.check()
        check_complete(done, self.data.train, self.stop)
        trained = [lane for lane in lanes if lane.failure is None and lane.settle()]
        check_teachers(trained)
        for lane in trained:
            record = self.close_epoch(lane)
            if record is not None:
                self.observer.after_epoch(lane, record)

    def train_step(self, lanes: Sequence[Lane], batch: Batch, place: Place | None = None) -> None:
        """Run every teacher once on a batch, or read what it showed, then let every lane take its step."""
        watch = Watch(batch)
        traces = watch.teachers(ask_teachers(lanes, batch, place))
        for lane in lanes:
            with watch.lane(lane):
                _step(lane, batch, traces)

    def close_epoch(self, lane: Lane) -> dict[str, Any] | None:
        """Evaluate a lane, if its phase has the task, and close its epoch; returns its row, or None if the lane failed."""
        start = time.perf_counter()
        scores: dict[str, float] = {}
        if lane.phase.task:
            try:
                networks = {
                    "": lane.to_measure(),
                    "ema_": lane.deployment.average_to_measure() if lane.learner is lane.student else None,
                }
                for kind, network in networks.items():
                    if network is not None:
                        scores |= {f"{kind}{name}": value for name, value in self._scores(network, lane).items()}
            except DataError:  # the other lanes are measured on the same images
                raise
            except Exception as error:  # a method may fail in making the network to ship, or that in its forward
                if not _is_seen_by_all(lane, error):
                    raise
                lane.fail(error)
                return None
        scores = lane.runtime.same(scores)  # all decide by them whether to go on, and with which weights
        return lane.end_epoch(scores, time.perf_counter() - start)

    def _scores(self, network: nn.Module, lane: Lane) -> dict[str, float]:
        """The metrics of a network by split and name, such as ``test_top1``."""
        scores: dict[str, float] = {}
        shared = self.data.dataset is not None  # the user's own loaders may give each process other batches
        check = self.stop.check if shared or not self.stop.is_shared else _unasked
        for split, batches in (("val", self.data.validation), ("test", self.data.test)):
            if batches is not None:
                values = evaluate(network, steady(batches, self.stop), lane.task, lane.runtime, check, together=shared)
                scores |= {f"{split}_{name}": value for name, value in values.items()}
        return scores

    def _release_ended(self) -> None:
        """Report and remove the lanes that have finished or failed."""
        for lane in [lane for lane in self.unfinished if lane.finished]:
            self.unfinished.remove(lane)
            self.observer.ended(lane)


def ask_teachers(lanes: Sequence[Lane], batch: Batch, place: Place | None = None) -> dict[TeacherQuery, Trace]:
    """Run every teacher that a lane needs once on each view, with the union of the taps that its lanes read.

    Args:
        lanes: all that step now.
        batch: the images.
        place: which batch of the training it is, so that teachers with a shelf can read what they showed.
    """
    wanted: dict[TeacherQuery, dict[str, TapPoint]] = {}
    for lane in lanes:
        for view in lane.teacher_queries:
            for number, query in enumerate(view):
                wanted.setdefault(query, {}).update(lane.phase.teacher_points(number))
    traces = {}
    for query, points in wanted.items():
        where = place and place.of_view(query.view)
        traces[query] = query.teacher.trace(batch.view(query.view), points, query.input_gradients, where)
    return traces


def _unasked() -> None:
    """In place of a check that not all processes would make equally often."""


def laid_out(batch: Batch, runtime: Runtime) -> Batch:
    """The batch in the memory format of the run."""
    return replace(batch, x=runtime.layout(batch.x), views=tuple(map(runtime.layout, batch.views)))


def _step(lane: Lane, batch: Batch, traces: Mapping[TeacherQuery, Trace]) -> None:
    """Take one step of a lane; an error fails that lane alone."""
    try:
        lane.step(batch, traces)
    except Exception as error:  # an error in one lane must not end the others
        if not _is_seen_by_all(lane, error):
            raise _told(lane, batch, error) from None
        lane.fail(_told(lane, batch, error))


def _is_seen_by_all(lane: Lane, error: Exception) -> bool:
    """Whether all processes see an error, so that its lane may fail alone: else the others would wait for this one forever."""
    return lane.runtime.processes == 1 or isinstance(error, KDError)


def _told(lane: Lane, batch: Batch, error: Exception) -> Exception:
    """An error of a step, or of the batch that the step was given."""
    if len(batch.x) > 1 or not isinstance(error, ValueError):
        return error
    return TrainingError(
        f"{lane.name}: the network cannot be trained on a batch of one image: {error} The last batch of an epoch is "
        "smaller than the others: choose another train.batch_size."
    )
