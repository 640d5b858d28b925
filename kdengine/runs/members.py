"""The students of a comparison with their lanes, each as a comparison of that student alone would have them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdengine.config.settings import Settings
from kdengine.runs.following import follow
from kdengine.runs.lane_runs import Job, planned
from kdengine.runs.lane_specs import LaneSpec
from kdengine.runs.remarks import remarks
from kdengine.runs.session import Session
from kdengine.runs.students import StudentSpec

__all__ = ["Member", "members_of", "shared_by"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Member:
    """One student of a comparison.

    Attributes:
        student: which one.
        session: makes its lanes; data and teachers are those of all members.
        lanes: its lanes.
    """

    student: StudentSpec
    session: Session
    lanes: Sequence[LaneSpec]

    @property
    def settings(self) -> Settings:
        """The settings of its lanes."""
        return self.session.settings

    def with_settings(self, settings: Settings, lanes: Sequence[LaneSpec]) -> Member:
        """The same student with other settings and lanes."""
        return replace(self, session=replace(self.session, settings=settings), lanes=list(lanes))

    def following(self) -> Member:
        """With training settings that follow the network of this student where they are left open."""
        session, lanes = follow(self.session, self.lanes)
        return replace(self, session=session, lanes=lanes)

    def jobs(self, trial: Session, folder: Path) -> list[Job]:
        """Its lanes in one trial.

        Args:
            trial: the session of that trial, with its seed and its batches.
            folder: the folder of that trial.
        """
        settings = self.settings.model_copy(update={"seed": trial.settings.seed})
        session = replace(self.session, settings=settings, data=trial.data)
        return [Job(lane, session, folder / self.student.label / lane.label) for lane in self.lanes]

    def plan(self) -> list[dict[str, Any]]:
        """What each of its lanes would be, as plain data; with the student, if there are several."""
        named = {"student": self.student.label} if self.student.label else {}
        return [{**named, **planned(lane, self.session)} for lane in self.lanes]


def members_of(session: Session, students: Iterable[StudentSpec], lanes: Sequence[LaneSpec]) -> list[Member]:
    """The students of a session with their lanes, and with training settings that follow their networks.

    Args:
        session: data, device and teachers.
        students: the students.
        lanes: the lanes of all of them.

    Raises:
        KDError: a student cannot be built.
    """
    members = [
        Member(student, student.session_in(session), [lane for lane in lanes if lane.student == student.label])
        for student in students
    ]
    for member in members[1:]:  # those on the first one were made when the session was opened
        for text in remarks(member.settings):
            log.info(text)
    return [member.following() for member in members]


def shared_by(members: Sequence[Member], settings: Settings) -> tuple[Settings, list[StudentSpec]]:
    """The settings of a comparison whose members follow their networks, and its students with what differs from them.

    Args:
        members: the members.
        settings: of the comparison, as given.
    """
    own = members[0].settings
    if len(members) == 1:
        return own, [members[0].student]
    shared = settings.model_copy(update={"teacher_train": own.teacher_train})
    return shared, [member.student.with_train_of(member.settings, shared) for member in members]
