"""One network on the way from the teacher to the student, and the pass of a teacher that it learns from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from kdengine.networks.network import Network
from kdengine.training.lane_module import LaneModule, ResolvedPhase
from kdengine.training.teacher import FrozenTeacher

__all__ = ["ChainStep", "TeacherQuery"]


class TeacherQuery(NamedTuple):
    """A pass of a teacher that lanes share."""

    teacher: FrozenTeacher
    input_gradients: bool


@dataclass(frozen=True)
class ChainStep:
    """One network on the way from the teacher to the student, most often the student itself.

    Attributes:
        student: the network.
        teacher: what it learns from, if anything.
        module: the network with its distillers.
        phases: its phases, the joint one last.
    """

    student: Network
    teacher: Network | None
    module: LaneModule
    phases: Sequence[ResolvedPhase]
