"""A lane: one student in training, with its distillers, phases, optimizer and history."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from traceback import clear_frames
from typing import Any

from torch import Tensor, nn

from kdengine.config.settings import Settings
from kdengine.data.batches import Batch
from kdengine.errors import TrainingError
from kdengine.methods.step import JOINT
from kdengine.taps import Trace
from kdengine.tasks.task import Task
from kdengine.training.attempt import Attempt
from kdengine.training.chain import ChainStep, TeacherQuery, position, queries
from kdengine.training.deployment import Deployment
from kdengine.training.history import History
from kdengine.training.lane_module import LaneModule, Progress, ResolvedPhase
from kdengine.training.metrics import Meter
from kdengine.training.phase_plan import PhasePlan
from kdengine.training.recomputing import recompute
from kdengine.training.rng import Randomness
from kdengine.training.runtime import Runtime
from kdengine.training.teacher import FrozenTeacher
from kdengine.training.updater import OptimizerStep, Outcome

__all__ = ["Lane"]


class Lane:
    """Takes one student through its phases.

    Args:
        name: its name in logs and folders.
        chain: the networks to train in turn, the student last; each then teaches the next.
        teachers: the teachers of the first network, if any.
        task: what the networks are trained for.
        settings: settings of the run; the seed controls draws such as dropout, but not the batches.
        runtime: device and precision.
        steps: batches per epoch.
        teach_with: the weights that a network teaches the next one with, those of its ``best`` or its ``last`` epoch.

    Attributes:
        teacher_queries: the teacher forwards that the current phase needs: for each view of the images, one of each teacher.
    """

    def __init__(
        self,
        name: str,
        chain: Sequence[ChainStep],
        teachers: Sequence[FrozenTeacher],
        task: Task,
        settings: Settings,
        runtime: Runtime,
        steps: int,
        teach_with: str = "best",
    ) -> None:
        self.name = name
        self.chain = list(chain)
        self.task = task
        self.settings = settings.train
        self.runtime = runtime
        self.steps = steps
        self.teach_with = teach_with
        self.meter = Meter(runtime, task, steps)
        self.deployment = Deployment(self.chain[-1])
        self.randomness = Randomness(settings.seed, runtime.device, runtime.rank)
        self.history = History(task.scoring)
        self.best_weights: dict[str, Tensor] = {}
        self.failure: Exception | None = None
        self.seconds = 0.0
        self._attempt: Attempt | None = None
        self._teachers = tuple(teachers)
        self._plan = PhasePlan(self.chain)
        self._step_number, self._phase_number, self._phase_epoch = -1, -1, 0
        self._enter_next_phase()

    @property
    def student(self) -> nn.Module:
        """The student; the same object throughout."""
        return self.chain[-1].module.student

    @property
    def module(self) -> LaneModule:
        """The network currently being trained, with its distillers."""
        return self.chain[self._step_number].module

    @property
    def learner(self) -> nn.Module:
        """The network currently being trained: the student, or one that will teach it."""
        return self.module.student

    @property
    def phases(self) -> list[ResolvedPhase]:
        """All phases, in order."""
        return self._plan.phases

    @property
    def phase(self) -> ResolvedPhase:
        """The current phase."""
        return self._plan[self._phase_number][1]

    @property
    def total_epochs(self) -> int:
        """Total epochs of all phases."""
        return self._plan.total_epochs

    @property
    def finished(self) -> bool:
        """Whether the lane has completed all epochs, has stopped early, or has failed."""
        patience = self.settings.patience if self._is_last_step and self.steps_done == 0 else None  # asked after every step
        gave_up = patience is not None and self.history.since_best(self._step_number) >= patience
        return self.failure is not None or gave_up or len(self.history) >= self.total_epochs

    @property
    def needs_teacher(self) -> bool:
        """Whether any phase reads the lane's first teacher."""
        return any(phase.needs_teacher for phase in self.chain[0].phases)

    @property
    def steps_done(self) -> int:
        """Steps taken in the current epoch."""
        return self.meter.steps

    @property
    def lr(self) -> float:
        """The learning rate of the last step."""
        return self._optimizer_step.lr

    def begin_epoch(self) -> None:
        """Prepare for an epoch, or for the rest of an interrupted one."""
        if self._phase_epoch >= self.phase.epochs:
            self._enter_next_phase()
        if self.steps_done == 0:
            self.randomness.begin_epoch(len(self.history))
        self.module.train()

    def step(self, batch: Batch, traces: Mapping[TeacherQuery, Trace]) -> None:
        """Update the student once; ``traces`` answers :attr:`teacher_queries`, maybe among others.

        Raises:
            TrainingError: a term or gradient of this step, or on a GPU of the one before, is not finite; no weight was updated.
        """
        start = time.perf_counter()
        updates = self._phase_epoch * self.steps + self.steps_done
        self.module.progress = Progress(self._phase_epoch, updates / (self.phase.epochs * self.steps))
        self.module.processes = self.runtime.sharing(batch.shares)
        random_state = self.randomness.state
        inputs = self.inputs(batch, traces)
        adding_up = self.runtime.adding_up(self._wrapped, self._optimizer_step.adds_up(updates))
        with self.randomness.active(), adding_up:
            terms, logits = self._wrapped(*inputs)
            outcome = self._update(batch.weighed(terms), updates)
            if outcome is Outcome.UPDATED:
                self.module.after_update()
        verdict = self._optimizer_step.verdict() if terms else None
        if outcome is Outcome.REFUSED or verdict is not None:
            where = f"{self.name}, epoch {len(self.history) + 1}, step {self.steps_done + 1}"
            self._learn(Attempt.of(where, inputs, terms, random_state, self.module.progress, verdict))
        if outcome is Outcome.UPDATED and self._is_last_step:
            self.deployment.weights_changed()
        self.meter.note(batch, terms, logits)
        self.meter.busy += time.perf_counter() - start

    def settle(self) -> bool:
        """Wait until it is known whether the last step was finite, and fail if it was not; returns whether the lane goes on."""
        try:
            self._learn(None)
        except TrainingError as error:
            self.fail(error)
        return self.failure is None

    def _learn(self, attempt: Attempt | None) -> None:
        """Ask whether a step was finite if that is known, or of the one before it: the device has moved on by then."""
        self._attempt, due = attempt, attempt if attempt is not None and attempt.verdict is None else self._attempt
        if due is not None and due.is_refused:
            raise due.fault(self.module, self.randomness, self.runtime, self._optimizer_step.parameters)

    def _update(self, terms: Mapping[str, Tensor], updates: int) -> Outcome:
        """Update the weights; the plain student of a task without targets stays as it was."""
        if not terms and self.task.measured_by_teacher and not self.module.methods:
            return Outcome.POSTPONED
        if terms:
            return self._optimizer_step.update(terms, updates, self._phase_epoch)
        raise TrainingError(f"{self.name}: the phase '{self.phase.name}' has no loss term. Use labels, or a method with one.")

    def inputs(self, batch: Batch, traces: Mapping[TeacherQuery, Trace]) -> tuple[Any, ...]:
        """The arguments of the module's forward."""
        shown = [[traces[query] for query in view] for view in self.teacher_queries]
        return batch.x, batch.y, batch.index, shown, batch.views[: self.phase.views - 1]

    def end_epoch(self, scores: Mapping[str, float], evaluation_seconds: float = 0.0) -> dict[str, Any]:
        """Close the epoch and return its row for ``metrics.jsonl``.

        Args:
            scores: metrics by split and name (``test_top1``); empty in a phase without the task.
            evaluation_seconds: duration of the evaluation.
        """
        self.seconds += self.meter.busy + evaluation_seconds
        record: dict[str, Any] = {
            "lane": self.name,
            "epoch": len(self.history) + 1,
            **position(self.chain, self._step_number),
            "phase": self.phase.name,
            "phase_epoch": self._phase_epoch + 1,
            "lr": self.lr,
            **self.meter.row(scored=self.phase.task),
            **scores,
        }
        if self.history.would_be_best(record, self._step_number):
            evaluated = self.deployment.measured if self._is_last_step else self.learner
            self.best_weights = {key: value.detach().clone() for key, value in evaluated.state_dict().items()}
        self.history.append(record)
        self.meter = Meter(self.runtime, self.task, self.steps)
        self._phase_epoch += 1
        return record

    def fail(self, error: Exception) -> None:
        """Mark the lane as failed, and free the memory that its traceback holds for the other lanes."""
        self.failure, self._attempt = error, None
        clear_frames(error.__traceback__)

    def retire(self) -> None:
        """Put every network into ``eval()``, and free what the last step has left."""
        self._attempt = None
        for step in self.chain:
            step.module.retire()
        recompute(self.student, self.settings.checkpointing, on=False)

    def to_measure(self) -> nn.Module:
        """The network to evaluate after an epoch, with preprocessing."""
        return self.deployment.to_measure() if self._is_last_step else self.module.preprocessed

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to resume after the last step: tensors and plain data."""
        return {
            "modules": [step.module.state_dict() for step in self.chain[: self._step_number + 1]],
            "optimizer": self._optimizer_step.state_dict(),
            "average": self.deployment.average_state(),
            "random": self.randomness.state_dict(),
            "history": self.history.to_plain(),
            "phases": self._plan.describe(),
            "best_weights": self.best_weights,
            "phase": self._phase_number,
            "phase_epoch": self._phase_epoch,
            "meter": self.meter.state_dict(),
            "seconds": self.seconds,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a saved state; one that belongs to different phases raises a ValueError."""
        self._plan.check(state["phases"], state["phase"])
        while self._phase_number < state["phase"]:
            self._enter_next_phase()
        for step, weights in zip(self.chain, state["modules"], strict=False):
            step.module.load_state_dict(weights)
        self._optimizer_step.load_state_dict(state["optimizer"])
        self.deployment.load_average(state["average"])
        self.randomness.begin_epoch(len(state["history"]))
        self.randomness.load_state_dict(state["random"])
        self.history = History(self.task.scoring, state["history"])
        self.best_weights = dict(state["best_weights"])
        self._phase_epoch = state["phase_epoch"]
        self.meter.load_state_dict(state["meter"])
        self.seconds = state["seconds"]

    def _enter_next_phase(self) -> None:
        """Enter the next phase, with a fresh optimizer unless the settings keep the old one."""
        self._phase_number, self._phase_epoch = self._phase_number + 1, 0
        number, phase = self._plan[self._phase_number]
        moved = number != self._step_number
        if moved:
            self._enter_chain_step(number)
        self.module.phase = phase
        self.teacher_queries = queries(self._teachers, phase)
        if moved or self.settings.reset_optimizer:
            self._optimizer_step = OptimizerStep(self.module, self.settings, self.runtime)
        self._optimizer_step.begin_phase(phase.epochs * self.steps if phase.name == JOINT else None, self.steps)

    def _enter_chain_step(self, number: int) -> None:
        """Start training the next network of the chain; the previous one becomes its teacher."""
        if number > 0:
            previous = self.module
            if self.teach_with == "best" and self.best_weights:
                previous.student.load_state_dict(self.best_weights)
            previous.zero_grad()
            self._teachers = (FrozenTeacher(previous.preprocessed, self.runtime, self.settings),)
        self.best_weights = {}
        self._step_number = number
        self._is_last_step = number == len(self.chain) - 1
        self.runtime.place(self.module)
        self._wrapped = self.runtime.setup(self.module)
        if self._is_last_step:
            self.deployment.begin(self.settings.ema)
            recompute(self.student, self.settings.checkpointing)
