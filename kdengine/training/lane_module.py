"""Student and distillers as one trainable module, and the phase that it is in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from kdengine.errors import TrainingError
from kdengine.methods.distiller import Distiller
from kdengine.methods.pairing import TapBinding
from kdengine.methods.step import JOINT, Step
from kdengine.networks.inputs import Preprocess
from kdengine.taps import Recorder, Trace
from kdengine.taps.anatomy import TapPoint
from kdengine.taps.double_backward import twice_differentiable
from kdengine.tasks.task import Task

__all__ = ["LaneModule", "Progress", "ResolvedPhase"]


@dataclass(frozen=True)
class Progress:
    """Where a lane stands in its phase: epoch from 0, and the share of the phase that is done."""

    epoch: int = 0
    share: float = 0.0


@dataclass(frozen=True)
class ResolvedPhase:
    """A phase as one lane runs it.

    Attributes:
        name: what logs and ``step.phase`` call it.
        epochs: its length.
        task: whether the task loss counts.
        bindings: distiller (by its id in the lane) -> what it reads; only those that have a term in this phase.
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
        """What the teacher must record."""
        return {name: point for binding in self.bindings.values() for name, point in binding.teacher.items()}

    @property
    def student_points(self) -> dict[str, TapPoint]:
        """What the student must record."""
        return {name: point for binding in self.bindings.values() for name, point in binding.student.items()}


class LaneModule(nn.Module):
    """Student and distillers as one module: the whole is what Fabric wraps, so every gradient passes through it.

    Args:
        student: the network being taught.
        distillers: id -> distiller; the id prefixes the names of its terms.
        task: what the student is for.
        preprocess: what is done to the images before the student receives them.
    """

    def __init__(
        self,
        student: nn.Module,
        distillers: Mapping[str, Distiller],
        task: Task,
        preprocess: Preprocess | None = None,
    ) -> None:
        super().__init__()
        self.student = student
        self.distillers = nn.ModuleDict(distillers)
        self.task = task
        self.preprocess = preprocess
        self.phase = ResolvedPhase(JOINT, 1, task=True)
        self.progress = Progress()

    @property
    def methods(self) -> dict[str, Distiller]:
        """The distillers, by their ids in the lane."""
        return {key: method for key, method in self.distillers.items() if isinstance(method, Distiller)}

    @property
    def preprocessed(self) -> nn.Module:
        """The student, taking images as the data makes them."""
        return self.student if self.preprocess is None else self.preprocess.before(self.student)

    def forward(
        self, x: Tensor, y: Tensor | None, index: Tensor | None, teacher: Trace | None
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """The weighted loss terms of one batch, each [], and the student's output where it went that far."""
        phase, precision = self.phase, _precision_of(_casting(x))
        trace = self._record(x)
        terms: dict[str, Tensor] = {}
        with torch.autocast(_casting(x), enabled=False):
            loss = self.task.loss(trace.logits, y) if phase.task and phase.task_weight else None
            if loss is not None:
                terms["task"] = phase.task_weight * loss
            for key, binding in phase.bindings.items():
                views = binding.of_student(trace), self._shown(key, binding, teacher)
                now = self.progress
                step = Step(
                    *(x, y, index, *views),
                    phase=phase.name,
                    epoch=now.epoch,
                    progress=now.share,
                    names=binding.names,
                    rectified=binding.rectified,
                    precision=precision,
                )
                terms.update(self._terms(key, step))
        return terms, trace.logits if phase.task else None

    def _shown(self, key: str, binding: TapBinding, teacher: Trace | None) -> Trace:
        """What a method may see of the teacher; without a history, unless it differentiates it."""
        trace = binding.of_teacher(teacher or Trace({}))
        if not self.phase.input_gradients or "input_gradients" in self.methods[key].needs:
            return trace
        return trace.detached()

    def clips(self, term: str) -> bool:
        """Whether the gradient of a term is to be clipped to that of the others."""
        key, dot, _ = term.partition(".")
        return bool(dot) and self.methods[key].clips_to_task

    def _record(self, x: Tensor) -> Trace:
        """The student's forward; in float32 where it is differentiated twice."""
        phase = self.phase
        with Recorder(self.preprocessed, phase.student_points, stop=not phase.task and bool(phase.student_points)) as recorder:
            if not phase.input_gradients:
                return recorder(x)
            with torch.autocast(_casting(x), enabled=False), twice_differentiable():
                return recorder(x.detach().requires_grad_())

    def _terms(self, key: str, step: Step) -> Iterator[tuple[str, Tensor]]:
        distiller = self.methods[key]
        try:
            found = distiller(step)
        except Exception as error:
            error.add_note(f"while computing the terms of '{key}' in the phase '{step.phase}'")
            raise
        if not isinstance(found, Mapping):
            kind = type(found).__name__
            raise TrainingError(
                f"{key}: forward must return {{name: scalar tensor}}, got {kind}. Write return {{'loss': ...}}."
            )
        for name, value in found.items():
            if not isinstance(value, Tensor) or value.numel() != 1:
                shape = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise TrainingError(f"{key}.{name} must be a scalar tensor [], got {shape}. Reduce it, for example by .mean().")
            yield f"{key}.{name}", distiller.options.weight * value.reshape(())


def _casting(x: Tensor) -> str:
    """The device type that autocast knows a tensor by; where it knows none (meta), that of the CPU serves."""
    kind = x.device.type
    return kind if torch.amp.is_autocast_available(kind) else "cpu"


def _precision_of(device: str) -> Callable[[], AbstractContextManager[object]]:
    """A maker of the autocast context that is in force now."""
    dtype, enabled = torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
    return lambda: torch.autocast(device, dtype=dtype, enabled=enabled)
