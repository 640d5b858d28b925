"""The trials of a comparison, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from kdengine.runs.lane_runs import Job, entered, passes
from kdengine.runs.members import Member
from kdengine.runs.ready_teachers import ready_teachers
from kdengine.runs.run import Run
from kdengine.runs.session import Session
from kdengine.runs.taught import measured_by_teacher
from kdengine.runs.train import train_all, train_teacher

__all__ = ["Trials"]


@dataclass(frozen=True)
class Trials:
    """How often all lanes are trained, and where.

    Attributes:
        folder: the folder of the comparison.
        count: number of repetitions.
        at_once: number of lanes to train side by side; None for as many as fit into memory.
        advice: the command that resumes the comparison.
        overrides: resume even with a different data set, teacher or precision.
    """

    folder: Path
    count: int
    at_once: int | None
    advice: str
    overrides: bool

    def train(self, session: Session, members: Sequence[Member]) -> None:
        """Train all lanes of all trials; the lanes of a pass share every forward of the teacher, whichever student they train.

        Args:
            session: trains the teachers.
            members: the students; their settings follow their networks.
        """
        facts: dict[str, Any] | None = None
        trained = False

        def teachers(needed: bool) -> Mapping[str, Any] | None:
            nonlocal facts, trained
            if facts is None or (needed and not trained):
                facts = ready_teachers(session, needed, partial(train_teacher, session))
                trained = needed
            return facts

        for number in range(1, self.count + 1):
            self.train_jobs(*self.jobs(session, members, number), teachers)

    def jobs(self, session: Session, members: Sequence[Member], number: int) -> tuple[Session, list[Job]]:
        """The session of a trial, and its lanes.

        Args:
            session: that of the comparison.
            members: the students.
            number: of the trial, from 1.
        """
        trial = session.for_seed(session.settings.seed + number - 1)
        return trial, [job for member in members for job in member.jobs(trial, self.folder / f"trial-{number}")]

    def train_jobs(self, trial: Session, jobs: Sequence[Job], teachers: Callable[[bool], Mapping[str, Any] | None]) -> None:
        """Train lanes of one trial.

        Args:
            trial: the session of that trial.
            jobs: the lanes.
            teachers: gets the teachers ready, and returns what is known of them; takes whether a lane needs them.
        """
        for runs in passes(jobs, self.at_once, self.advice):
            self._train_pass(runs, trial, teachers(any(run.lane.needs_teacher for run, _ in runs)))

    def _train_pass(self, runs: Sequence[tuple[Run, Session]], trial: Session, facts: Mapping[str, Any] | None) -> None:
        """Train one pass of lanes side by side, then unlock their folders."""
        try:
            entering = [entered(run, own, facts, self.overrides) for run, own in runs]
            train_all(entering, measured_by_teacher(trial), facts)
        finally:
            for run, _ in runs:
                run.folder.free()
