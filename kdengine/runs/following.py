"""How the networks of a run are trained where its settings leave that open."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kdengine.config.settings import Settings
from kdengine.networks.network import Network
from kdengine.runs.session import Session
from kdengine.training.defaults import Followed

__all__ = ["Training"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Training:
    """How the student is trained, and the teacher if it has no weights.

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
        if session.teacher_network is not None and session.trains_teacher:
            networks["teacher"] = session.teacher_network
            followed["teacher"] = session.followed(session.teacher_network, "teacher", settings.teacher_training)
        return cls(followed, {role: network.name for role, network in networks.items()})

    def into(self, settings: Settings) -> Settings:
        """The settings with nothing left open, so that a repeated or resumed run does not depend on the rules."""
        changes: dict[str, Any] = {"train": self.followed["student"].settings}
        if "teacher" in self.followed and settings.teacher is not None:
            changes["teacher_train"] = {**settings.teacher_train, **self.followed["teacher"].values}
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
