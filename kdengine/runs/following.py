"""How the networks of a run are trained where its settings leave that open."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kdengine.config.settings import Settings, TrainSettings
from kdengine.networks.network import Network
from kdengine.runs.lane_specs import LaneSpec
from kdengine.runs.session import Session
from kdengine.runs.teachers import is_teacher
from kdengine.training.defaults import Followed, left_open

__all__ = ["Training", "follow"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Training:
    """How the student is trained, and every teacher that has no weights.

    Attributes:
        followed: role -> its training settings, and why they are what they are.
        names: role -> name of the network.
    """

    followed: Mapping[str, Followed]
    names: Mapping[str, str]

    @classmethod
    def of(cls, session: Session, student: Network) -> Training:
        """Look at the networks and choose what the settings leave open.

        Args:
            session: data, device and teacher.
            student: the network to train; all networks of its lanes are trained as it is.
        """
        settings, networks = session.settings, {"student": student}
        followed = {"student": session.followed(student, "student", settings.train)}
        for teacher in session.teachers:
            if teacher.is_trained_first:
                networks[teacher.role] = teacher.network
                followed[teacher.role] = session.followed(teacher.network, teacher.role, settings.teacher_training)
        return cls(followed, {role: network.name for role, network in networks.items()})

    def into(self, settings: Settings) -> Settings:
        """The settings with nothing left open, so that a repeated or resumed run does not depend on the rules."""
        changes: dict[str, Any] = {"train": self.followed["student"].settings}
        taught = [followed.values for role, followed in self.followed.items() if is_teacher(role)]
        if taught and settings.teacher is not None:
            # where teachers differ, a value stays open, so that each repeats its own
            agreed = {name: value if all(one[name] == value for one in taught) else "auto" for name, value in taught[0].items()}
            changes["teacher_train"] = {**settings.teacher_train, **agreed}
        return settings.model_copy(update=changes)

    def announce(self) -> None:
        """Log how the student is trained, unless the user set all of it."""
        if self.followed["student"].is_chosen:
            log.info("%s is trained with %s", self.names["student"], self.followed["student"])

    def describe(self) -> dict[str, Any]:
        """Values and reasons for each network, as plain data."""
        return {
            role: {"network": self.names[role], "summary": str(item), **item.values, "why": dict(item.why)}
            for role, item in self.followed.items()
        }


def follow(session: Session, lanes: Sequence[LaneSpec]) -> tuple[Session, list[LaneSpec]]:
    """The session of a comparison with settings that follow the student, and its lanes with training settings of their own.

    Args:
        session: data, device and teacher; its settings may leave values open.
        lanes: the lanes.
    """
    if not left_open(session.settings.train):
        return session, list(lanes)
    student = session.student()
    training = Training.of(session, student)
    training.announce()
    settings = training.into(session.settings)
    return replace(session, settings=settings), [_following(lane, session, student, settings.train) for lane in lanes]


def _following(lane: LaneSpec, session: Session, student: Network, shared: TrainSettings) -> LaneSpec:
    if not lane.train:
        return lane
    own = TrainSettings.checked({**session.settings.train.model_dump(), **lane.train}, owner="train")
    values = session.followed(student, "student", own).values
    different = {name: value for name, value in values.items() if value != getattr(shared, name)}
    return replace(lane, train={**different, **lane.train})
