"""Student and distillers as one trainable module, and the stage that it is in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdengine.distiller import Distiller
from kdengine.step import JOINT, Stage, Step
from kdengine.errors import TrainingError
from kdengine.pairing import Reading
from kdengine.taps import Recorder, Trace
from kdengine.taps.anatomy import Site

__all__ = ["LaneModule", "Phase", "Progress"]


@dataclass(frozen=True)
class Progress:
    """Where a lane stands in its stage: epoch from 0, and the share of the stage that is done."""

    epoch: int = 0
    share: float = 0.0


@dataclass(frozen=True)
class Phase:
    """A stage as one lane runs it.

    Attributes:
        stage: its name and whether the task loss counts.
        epochs: its length.
        readings: distiller (by its id in the lane) -> what it reads; only those that have a term in this stage.
        task_weight: factor on the task loss.
    """

    stage: Stage
    epochs: int
    readings: Mapping[str, Reading] = field(default_factory=dict)
    task_weight: float = 1.0

    @property
    def teacher_sites(self) -> dict[str, Site]:
        """What the teacher must record."""
        return {name: site for reading in self.readings.values() for name, site in reading.teacher.items()}

    @property
    def student_sites(self) -> dict[str, Site]:
        """What the student must record."""
        return {name: site for reading in self.readings.values() for name, site in reading.student.items()}


class LaneModule(nn.Module):
    """Student and distillers as one module: the whole is what Fabric wraps, so every gradient passes through it.

    Args:
        student: the network being taught.
        distillers: id -> distiller; the id prefixes the names of its terms.
        label_smoothing: of the task loss.
    """

    def __init__(self, student: nn.Module, distillers: Mapping[str, Distiller], label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.student = student
        self.distillers = nn.ModuleDict(distillers)
        self.label_smoothing = label_smoothing
        self.phase = Phase(Stage(JOINT, 1, task=True), 1)
        self.progress = Progress()

    @property
    def methods(self) -> dict[str, Distiller]:
        """The distillers, by their ids in the lane."""
        return {key: method for key, method in self.distillers.items() if isinstance(method, Distiller)}

    def forward(self, x: Tensor, y: Tensor, index: Tensor, teacher: Trace | None) -> tuple[dict[str, Tensor], Tensor | None]:
        """The weighted loss terms of one batch, each [], and the logits [B, K] where the student went that far."""
        phase, progress = self.phase, self.progress
        with Recorder(self.student, phase.student_sites, stop=not phase.stage.task) as recorder:
            trace = recorder(x)
        terms: dict[str, Tensor] = {}
        with torch.autocast(x.device.type, enabled=False):
            if phase.stage.task and phase.task_weight:
                task = F.cross_entropy(trace.logits, y, label_smoothing=self.label_smoothing)
                terms["task"] = phase.task_weight * task
            for key, reading in phase.readings.items():
                assert teacher is not None
                student_view, teacher_view = reading.of_student(trace), reading.of_teacher(teacher)
                stage = phase.stage.name, progress.epoch, progress.share
                step = Step(x, y, index, student_view, teacher_view, *stage, reading.names, reading.rectified)
                terms.update(self._terms(key, step))
        return terms, trace.logits if phase.stage.task else None

    def _terms(self, key: str, step: Step) -> Iterator[tuple[str, Tensor]]:
        distiller = self.methods[key]
        try:
            found = distiller(step)
        except Exception as error:
            error.add_note(f"while computing the terms of '{key}' in the stage '{step.stage}'")
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
