"""What a run came to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from kdengine.networks.flops import count_flops
from kdengine.networks.models import count_parameters

if TYPE_CHECKING:
    from kdengine.runs.run import Run

__all__ = ["Result"]


@dataclass(frozen=True)
class Result:
    """What a run came to.

    Attributes:
        student: the trained network with its last weights, in ``eval()``, free of hooks and wrappers.
        top1: accuracy on the test images after the last epoch, in percent.
        best_top1: the best of all epochs.
        teacher_top1: the teacher's accuracy, or None for plain training.
        history: one row an epoch, as in ``metrics.jsonl``.
        folder: the run folder.
        facts: what ``result.json`` holds.
    """

    student: nn.Module
    top1: float
    best_top1: float
    teacher_top1: float | None
    history: Sequence[Mapping[str, Any]]
    folder: Path
    facts: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(cls, run: Run, teacher: Mapping[str, Any] | None, data: Mapping[str, Any]) -> Result:
        """The result of a run whose lane is at its end.

        Args:
            run: the run.
            teacher: what is known of the teacher, where there is one.
            data: what is known of the data.
        """
        lane, preprocess = run.lane, run.lane.links[-1].student.preprocess
        summary, methods = lane.summary(), lane.module.methods
        student = lane.student.eval()
        for method in methods.values():
            student = method.deploy(student).eval()
        sizes = {
            "parameters": count_parameters(student),
            "training_parameters": count_parameters(lane.module),
            "flops": count_flops(student, preprocess.wanted.size),
        }
        facts = {
            "method": lane.name,
            "methods": list(methods),
            "teacher": dict(teacher) if teacher else None,
            **({"assistants": lane.assistants()} if lane.assistants() else {}),
            "student": {"name": run.settings.student, **summary, **sizes, "input": preprocess.wanted.describe()},
            "data": dict(data),
            "settings": run.settings.model_dump(mode="json"),
        }
        top1 = None if teacher is None else teacher["top1"]
        return cls(student, summary["top1"], summary["best_top1"], top1, list(lane.history), run.folder.path, facts)

    def to_dict(self) -> dict[str, Any]:
        """Teacher, student and data as plain data."""
        return dict(self.facts)
