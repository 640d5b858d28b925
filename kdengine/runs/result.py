"""What a run came to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from kdengine.config.settings import Settings
from kdengine.networks.flops import count_flops
from kdengine.networks.models import count_parameters
from kdengine.storage.scores import Scoring
from kdengine.training.lane import Lane

__all__ = ["Result"]


@dataclass(frozen=True)
class Result:
    """What a run came to.

    Attributes:
        student: the trained network with its last weights, in ``eval()``, free of hooks and wrappers; what a method made of
            it for deployment, where one does.
        history: one row an epoch, as in ``metrics.jsonl``.
        folder: the run folder.
        scoring: what the task measures.
        facts: what ``result.json`` holds.
    """

    student: nn.Module
    history: Sequence[Mapping[str, Any]]
    folder: Path
    scoring: Scoring = field(repr=False)
    facts: Mapping[str, Any] = field(repr=False)

    @classmethod
    def from_lane(
        cls, lane: Lane, settings: Settings, folder: Path, teacher: Mapping[str, Any] | None, data: Mapping[str, Any]
    ) -> Result:
        """The result of a lane that is at its end.

        Args:
            lane: the lane.
            settings: of its run, as resolved.
            folder: of its run.
            teacher: what is known of the teacher, where there is one.
            data: what is known of the data.
        """
        received = lane.chain[-1].student.preprocess.wanted
        student = lane.deployment.of(lane.student)
        before = enumerate(lane.chain[:-1])
        assistants = [{"name": step.student.name, **lane.history.score(number)} for number, step in before]
        sizes = {
            "parameters": count_parameters(student),
            "training_parameters": count_parameters(lane.module),
            "flops": count_flops(student, received.size),
        }
        facts = {
            "method": lane.name,
            "methods": list(lane.module.methods),
            "task": lane.task.scoring.to_dict(),
            "teacher": dict(teacher) if teacher else None,
            **({"assistants": assistants} if assistants else {}),
            **({"deployed_by": lane.deployment.methods} if lane.deployment.methods else {}),
            "student": {"name": settings.student, **lane.summary(), **sizes, "input": received.describe()},
            "data": dict(data),
            "settings": settings.model_dump(mode="json"),
        }
        return cls(student, list(lane.history), folder, lane.task.scoring, facts)

    @property
    def score(self) -> float | None:
        """The headline on the test images after the last epoch."""
        return self._of("student", self.scoring.headline.name)

    @property
    def best_score(self) -> float | None:
        """The headline on the test images after the best epoch."""
        return self._of("student", f"best_{self.scoring.headline.name}")

    @property
    def teacher_score(self) -> float | None:
        """The teacher's headline; None for plain training."""
        return self._of("teacher", self.scoring.headline.name)

    @property
    def top1(self) -> float | None:
        """Of classification: accuracy on the test images after the last epoch, in percent."""
        return self._of("student", "top1")

    @property
    def best_top1(self) -> float | None:
        """Of classification: accuracy on the test images after the best epoch, in percent."""
        return self._of("student", "best_top1")

    @property
    def teacher_top1(self) -> float | None:
        """Of classification: the teacher's accuracy in percent, or None for plain training."""
        return self._of("teacher", "top1")

    def to_dict(self) -> dict[str, Any]:
        """Teacher, student and data as plain data."""
        return dict(self.facts)

    def _of(self, role: str, name: str) -> float | None:
        known: Mapping[str, float | None] = self.facts[role] or {}
        return known.get(name)
