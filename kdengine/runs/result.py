"""The result of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from kdengine.config.settings import Settings
from kdengine.networks.flops import count_flops
from kdengine.networks.models import count_parameters
from kdengine.runs.judging import judge_run
from kdengine.runs.result_view import as_html, in_one_line
from kdengine.storage.chance import Chance
from kdengine.storage.scores import Scoring
from kdengine.training.lane import Lane

__all__ = ["Result"]


@dataclass(frozen=True)
class Result:
    """The result of a run.

    Attributes:
        student: the trained network with its last weights, in ``eval()``, without hooks or wrappers; if a method defines
            ``deploy``, the network that it returns.
        history: one row per epoch, as in ``metrics.jsonl``.
        folder: the run folder.
        scoring: what the task measures.
        facts: the content of ``result.json``.
    """

    student: nn.Module
    history: Sequence[Mapping[str, Any]]
    folder: Path
    scoring: Scoring
    facts: Mapping[str, Any]

    @classmethod
    def from_lane(
        cls,
        lane: Lane,
        settings: Settings,
        folder: Path,
        teacher: Mapping[str, Any] | None,
        data: Mapping[str, Any],
        chance: Chance | None = None,
    ) -> Result:
        """Collect the result of a finished lane.

        Args:
            lane: the lane.
            settings: settings of its run, as resolved.
            folder: its run folder.
            teacher: facts about the teacher, if any.
            data: facts about the data.
            chance: what guessing reaches, if the task knows.
        """
        received = lane.chain[-1].student.preprocess.wanted
        student = lane.deployment.of(lane.student)
        taught_before = enumerate(lane.chain[:-1])
        assistants = [{"name": step.student.name, **lane.history.score(number)} for number, step in taught_before]
        scores = {**lane.history.score(len(lane.chain) - 1), "epochs": len(lane.history), "seconds": round(lane.seconds, 2)}
        sizes = {
            "parameters": count_parameters(student),
            "training_parameters": count_parameters(lane.module),
            "flops": count_flops(student, received.size),
        }
        facts: dict[str, Any] = {
            "method": lane.name,
            "methods": list(lane.module.selected),
            "task": lane.task.scoring.to_dict(),
            "teacher": dict(teacher) if teacher else None,
            **({"assistants": assistants} if assistants else {}),
            **({"deployed_by": lane.deployment.methods} if lane.deployment.methods else {}),
            "student": {"name": settings.student, **scores, **sizes, "input": received.describe()},
            "data": dict(data),
            "settings": settings.model_dump(mode="json"),
        }
        warnings = judge_run(facts, lane.history, lane.task.scoring, chance)
        facts |= {"warnings": list(warnings)} if warnings else {}
        return cls(student, list(lane.history), folder, lane.task.scoring, facts)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Why its numbers mean nothing, such as a teacher near chance; empty if there is nothing to warn of."""
        return tuple(self.facts.get("warnings", ()))

    @property
    def score(self) -> float | None:
        """The headline measure on the test images after the last epoch."""
        return self._of("student", self.scoring.headline.name)

    @property
    def best_score(self) -> float | None:
        """The headline measure on the test images after the best epoch."""
        return self._of("student", f"best_{self.scoring.headline.name}")

    @property
    def teacher_score(self) -> float | None:
        """The teacher's headline measure; None for plain training."""
        return self._of("teacher", self.scoring.headline.name)

    @property
    def top1(self) -> float | None:
        """Classification only: test accuracy after the last epoch, in percent."""
        return self._of("student", "top1")

    @property
    def best_top1(self) -> float | None:
        """Classification only: test accuracy after the best epoch, in percent."""
        return self._of("student", "best_top1")

    @property
    def teacher_top1(self) -> float | None:
        """Classification only: the teacher's accuracy in percent; None for plain training."""
        return self._of("teacher", "top1")

    def to_dict(self) -> dict[str, Any]:
        """Teacher, student and data as plain data."""
        return dict(self.facts)

    def __repr__(self) -> str:
        return in_one_line(self.facts, self.scoring, self.folder)

    def _repr_html_(self) -> str:
        return as_html(self.facts, self.scoring, self.folder)

    def _of(self, role: str, name: str) -> float | None:
        scores: Mapping[str, float | None] = self.facts[role] or {}
        return scores.get(name)
