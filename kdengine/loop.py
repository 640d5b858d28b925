"""The training loop: one stream of batches, one pass of each teacher a batch, every lane steps."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kdengine.batches import Batch, Batches
from kdengine.errors import TrainingError
from kdengine.evaluation import evaluate
from kdengine.lane import Lane
from kdengine.runtime import Runtime
from kdengine.taps import Recorder, Trace
from kdengine.taps.anatomy import Site

if TYPE_CHECKING:
    from kdengine.run import Run

__all__ = ["TeacherPass", "fit"]


def fit(run: Run, lanes: Sequence[Lane], teachers: Mapping[str, TeacherPass], train: Batches, test: Batches) -> None:
    """Train every lane to its end.

    A lane that fails is taken out; the others go on.
    """
    epoch = min((len(lane.history) for lane in lanes), default=0)
    while running := [lane for lane in lanes if not lane.finished]:
        for lane in running:
            lane.begin_epoch()
        for done, batch in enumerate(train.epoch(epoch), 1):
            batch = Batch(run.runtime.layout(batch.x), batch.y, batch.index)
            traces = {key: teacher.trace(batch.x, _wanted(running, key)) for key, teacher in teachers.items()}
            for lane in running:
                _step(lane, batch, traces)
            if all(lane.failure for lane in running):
                break  # nobody is left to learn from the rest of the epoch
            run.hook.kdengine_after_step(run=run, done=done, total=len(train))
        for lane in running:
            if lane.failure is None:
                run.hook.kdengine_after_epoch(run=run, record=_end_epoch(lane, test, run.runtime))
        epoch += 1


def _wanted(lanes: Sequence[Lane], teacher: str) -> dict[str, Site] | None:
    """The union of the taps that the lanes need of a teacher now; None when no lane needs it."""
    asking = [lane for lane in lanes if lane.teacher == teacher and lane.failure is None and lane.needs_teacher]
    return {name: site for lane in asking for name, site in lane.phase.teacher_sites.items()} if asking else None


def _step(lane: Lane, batch: Batch, traces: Mapping[str, Trace | None]) -> None:
    if lane.failure is not None:
        return
    try:
        lane.step(batch, traces.get(lane.teacher) if lane.teacher else None)
    except Exception as error:  # one lane's fault must not end the others
        lane.fail(error)


def _end_epoch(lane: Lane, test: Batches, runtime: Runtime) -> dict[str, Any]:
    start = time.perf_counter()
    accuracy = evaluate(lane.student, test, runtime) if lane.phase.stage.task else None
    return lane.end_epoch(accuracy, time.perf_counter() - start)


class TeacherPass:
    """A frozen teacher: one forward a batch, without gradients, that records what the lanes ask for.

    Args:
        model: the teacher; it is in ``eval()`` and stays so.
        runtime: where it runs.
    """

    def __init__(self, model: nn.Module, runtime: Runtime) -> None:
        self.model = runtime.place(model.eval())
        self.runtime = runtime
        self._logits_wanted = False

    def trace(self, images: Tensor, sites: Mapping[str, Site] | None) -> Trace | None:
        """Record the sites, stopping at the deepest; logits that nobody named are made when they are asked for.

        Raises:
            TrainingError: something put the teacher, or a part of it, into training mode.
        """
        if sites is None:
            return None
        if any(module.training for module in self.model.modules()):
            raise TrainingError("The teacher was put into training mode during the run. It must stay in eval().")
        whole = self._logits_wanted or "logits" in sites
        recorded = self._forward(images, sites, whole)
        return recorded if whole else recorded.completed_by(lambda: self._unannounced_logits(images))

    def _unannounced_logits(self, images: Tensor) -> Tensor:
        """The logits for a method that reads them without naming them; from now on no forward is cut short."""
        self._logits_wanted = True
        return self._forward(images, {}, whole=True).logits

    def _forward(self, images: Tensor, sites: Mapping[str, Site], whole: bool) -> Trace:
        # no_grad, not inference_mode: connectors may multiply these tensors by parameters
        with torch.no_grad(), self.runtime.autocast(), Recorder(self.model, sites, stop=not whole) as recorder:
            return recorder(images)
