"""Student and distillers as one trainable module, with its current phase."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor, nn

from kdengine.config.factories import Factories
from kdengine.errors import TrainingError
from kdengine.methods.distiller import Distiller
from kdengine.methods.pairing import TapBinding
from kdengine.methods.step import JOINT, Step
from kdengine.networks.inputs import Preprocess
from kdengine.taps import Recorder, Trace
from kdengine.taps.anatomy import TapPoint
from kdengine.taps.double_backward import twice_differentiable
from kdengine.tasks.task import Task
from kdengine.training.compiling import Forwards
from kdengine.training.freezing import Frozen

__all__ = ["LaneModule", "Progress", "ResolvedPhase"]


@dataclass(frozen=True)
class Progress:
    """Progress within a phase: the epoch, from 0, and the completed share, from 0 to 1."""

    epoch: int = 0
    share: float = 0.0


@dataclass(frozen=True)
class ResolvedPhase:
    """A phase as one lane runs it.

    Attributes:
        name: its name in logs and in ``step.phase``.
        epochs: its length.
        task: whether the task loss is included.
        bindings: id of a distiller -> the taps it reads; only distillers that have a term in this phase.
        task_weight: factor on the task loss.
        input_gradients: whether a method differentiates the networks with respect to their images.
        needs_teacher: whether any method reads the teacher.
    """

    name: str
    epochs: int
    task: bool = False
    bindings: Mapping[str, TapBinding] = field(default_factory=dict)
    task_weight: float = 1.0
    input_gradients: bool = False
    needs_teacher: bool = False

    @property
    def teacher_points(self) -> dict[str, TapPoint]:
        """The points to record in the teacher, by name."""
        return {name: point for binding in self.bindings.values() for name, point in binding.teacher.items()}

    @property
    def student_points(self) -> dict[str, TapPoint]:
        """The points to record in the student, by name."""
        return {name: point for binding in self.bindings.values() for name, point in binding.student.items()}


class LaneModule(nn.Module):
    """Student and distillers as one module, which Fabric wraps as a whole so that every gradient passes through it.

    Args:
        student: the network being trained.
        distillers: id -> distiller; the id prefixes the names of its terms.
        task: what the student is trained for.
        preprocess: turns images of the data into the student's input.
        classifier: path of the student's classifier, if it has one.
        frozen: paths of the student's modules that are not trained; ``backbone`` is all but the classifier.
        compiled: whether to compile the student's forward where nothing inside it is recorded.

    Attributes:
        factories: what makes optimizer and scheduler, if the caller passed that.
    """

    def __init__(
        self,
        student: nn.Module,
        distillers: Mapping[str, Distiller],
        task: Task,
        preprocess: Preprocess | None = None,
        classifier: str | None = None,
        frozen: Sequence[str] = (),
        compiled: bool = False,
    ) -> None:
        super().__init__()
        self.classifier = classifier
        self.frozen = Frozen.of(student, classifier, frozen)
        self.student = student
        self.distillers = nn.ModuleDict(distillers)
        self.task = task
        self.preprocess = preprocess
        self.forwards = Forwards(student, preprocess, compiled)
        self.phase = ResolvedPhase(JOINT, 1, task=True)
        self.progress = Progress()
        self.factories = Factories()

    def train(self, mode: bool = True) -> Self:
        """Switch to training, or with False to evaluation; frozen modules always stay in evaluation."""
        super().train(mode)
        self.frozen.keep()
        return self

    @property
    def methods(self) -> dict[str, Distiller]:
        """The distillers, by id."""
        return {key: method for key, method in self.distillers.items() if isinstance(method, Distiller)}

    @property
    def preprocessed(self) -> nn.Module:
        """The student with its preprocessing."""
        return self.student if self.preprocess is None else self.preprocess.before(self.student)

    def forward(
        self, x: Tensor, y: Tensor | None, index: Tensor | None, teacher: Trace | None
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """The weighted loss terms of one batch, each [], and the student's output, if the phase has the task."""
        phase, precision = self.phase, _precision_of(_casting(x))
        trace = self._record(x)
        terms: dict[str, Tensor] = {}
        with torch.autocast(_casting(x), enabled=False):
            loss = self.task.loss(trace.logits, y) if phase.task and phase.task_weight else None
            if loss is not None:
                terms["task"] = phase.task_weight * loss
            for key, binding in phase.bindings.items():
                views = binding.of_student(trace), self._teacher_view(key, binding, teacher)
                progress = self.progress
                step = Step(
                    *(x, y, index, *views),
                    phase=phase.name,
                    epoch=progress.epoch,
                    progress=progress.share,
                    names=binding.names,
                    rectified=binding.rectified,
                    precision=precision,
                )
                terms.update(self._terms(key, step))
        return terms, trace.logits if phase.task else None

    def _teacher_view(self, key: str, binding: TapBinding, teacher: Trace | None) -> Trace:
        """The teacher's trace as a method sees it; detached unless the method needs input gradients."""
        trace = binding.of_teacher(teacher or Trace({}))
        if not self.phase.input_gradients or "input_gradients" in self.methods[key].needs:
            return trace
        return trace.detached()

    def clips(self, term: str) -> bool:
        """Whether the gradient of a term is clipped to that of the other terms."""
        key, dot, _ = term.partition(".")
        return bool(dot) and self.methods[key].clips_to_task

    def _record(self, x: Tensor) -> Trace:
        """Run the student; in float32 if it is differentiated twice."""
        phase = self.phase
        points, stop = phase.student_points, not phase.task and bool(phase.student_points)
        network = self.preprocessed if phase.input_gradients else self.forwards.fit_for(points)
        with Recorder(network, points, stop=stop) as recorder:
            if not phase.input_gradients:
                return recorder(x)
            with torch.autocast(_casting(x), enabled=False), twice_differentiable():
                return recorder(x.detach().requires_grad_())

    def _terms(self, key: str, step: Step) -> Iterator[tuple[str, Tensor]]:
        distiller = self.methods[key]
        try:
            returned = distiller(step)
        except Exception as error:
            error.add_note(f"while computing the terms of '{key}' in the phase '{step.phase}'")
            raise
        if not isinstance(returned, Mapping):
            kind = type(returned).__name__
            raise TrainingError(
                f"{key}: forward must return {{name: scalar tensor}}, got {kind}. Write return {{'loss': ...}}."
            )
        for name, value in returned.items():
            if not isinstance(value, Tensor) or value.numel() != 1:
                shape = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise TrainingError(f"{key}.{name} must be a scalar tensor [], got {shape}. Reduce it, for example by .mean().")
            yield f"{key}.{name}", distiller.options.weight * value.reshape(())


def _casting(x: Tensor) -> str:
    """The tensor's device type for autocast; ``cpu`` for devices without autocast, such as meta."""
    kind = x.device.type
    return kind if torch.amp.is_autocast_available(kind) else "cpu"


def _precision_of(device: str) -> Callable[[], AbstractContextManager[object]]:
    """A factory of contexts that restore the current autocast state."""
    dtype, enabled = torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
    return lambda: torch.autocast(device, dtype=dtype, enabled=enabled)
