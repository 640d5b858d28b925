"""What trains the lanes of a comparison where there is no launcher: this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kdengine.runs.assignment import Assignment
from kdengine.runs.members import Member
from kdengine.runs.session import Session
from kdengine.runs.trials import Trials

__all__ = ["InProcess"]


class InProcess:
    """Trains all trials in turn, here."""

    def check(self, assignment: Assignment, members: Sequence[Member]) -> None:
        """Nothing has to travel."""

    def open(self, assignment: Assignment, members: Sequence[Member], folder: Path) -> None:
        """There is nobody to connect to."""

    def train(self, trials: Trials, session: Session, members: Sequence[Member]) -> None:
        """Train all lanes of all trials.

        Args:
            trials: how often, and where.
            session: trains the teachers.
            members: the students; their settings follow their networks.
        """
        trials.train(session, members)
