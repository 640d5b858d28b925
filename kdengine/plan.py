"""What a run is going to do, known before anything is trained or written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kdengine.lane import Lane
from kdengine.lane_module import Phase
from kdengine.link import Link
from kdengine.models import count_parameters
from kdengine.pupil import Network
from kdengine.room import Room
from kdengine.runfolder import RunFolder
from kdengine.settings import Settings

__all__ = ["Plan"]


@dataclass(frozen=True)
class Plan:
    """All parts of a run, put together and checked.

    Attributes:
        settings: as resolved.
        folder: where it will be kept; not created yet.
        room: its data, its device and its teacher.
        student: the network to train.
        lane: the student with its methods and stages.
    """

    settings: Settings
    folder: RunFolder
    room: Room
    student: Network
    lane: Lane

    def describe(self) -> dict[str, Any]:
        """Networks, methods with their connectors, and stages with their taps and shapes, as plain data."""
        networks = {"student": self.student, "teacher": self.room.teacher}
        return {
            **{role: _network(network) for role, network in networks.items() if network is not None},
            "methods": [
                {"name": name, "connector_parameters": count_parameters(method)}
                for name, method in self.lane.module.methods.items()
            ],
            "stages": [
                {**({"network": link.student.name} if len(self.lane.links) > 1 else {}), **_stage(link, phase)}
                for link in self.lane.links
                for phase in link.phases
            ],
            "data": self.room.source.describe(),
            "runtime": self.room.runtime.describe(),
            "folder": str(self.folder.path),
        }


def _network(network: Network) -> dict[str, Any]:
    return {"name": network.name, "parameters": network.anatomy.parameters, "stages": network.anatomy.num_stages}


def _stage(link: Link, phase: Phase) -> dict[str, Any]:
    return {
        "name": phase.stage.name,
        "epochs": phase.epochs,
        "task_weight": phase.task_weight if phase.stage.task else 0.0,
        "forward": "whole" if phase.stage.task else "up to the deepest tap",
        "taps": [_tap(link, phase, method, *names) for method in phase.readings for names in phase.readings[method].names],
    }


def _tap(link: Link, phase: Phase, method: str, student: str, teacher: str) -> dict[str, Any]:
    assert link.teacher is not None
    reading = phase.readings[method]
    student, teacher = (name.removeprefix("=") for name in (student, teacher))
    here, there = reading.student[student], reading.teacher[teacher]
    return {
        "method": method,
        "student": student,
        "student_place": str(here),
        "student_shape": list(link.student.anatomy.tensor(here).shape[1:]),
        "teacher": teacher,
        "teacher_place": str(there),
        "teacher_shape": list(link.teacher.anatomy.tensor(there).shape[1:]),
        "cloned": here.overwritten or there.overwritten,
    }
