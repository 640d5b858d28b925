"""The trials of a comparison, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from kdengine.errors import SettingsError
from kdengine.runs.lane_runs import Job, entered, passes
from kdengine.runs.members import Member
from kdengine.runs.ready_teachers import ready_teachers
from kdengine.runs.run import Run
from kdengine.runs.session import Session
from kdengine.runs.taught import measured_by_teacher
from kdengine.runs.teacher_store import TeacherStore
from kdengine.runs.train import train_all, train_teacher

__all__ = ["Trials", "check_counts"]


def check_counts(**counts: int | None) -> None:
    """Refuse to do something less than once; None is for a count that was not given.

    Raises:
        SettingsError: names the count.
    """
    for name, count in counts.items():
        if count is not None and count < 1:
            raise SettingsError(f"{name} = {count} is not allowed: it must be at least 1.")


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

        store = self.store(members)
        for number in range(1, self.count + 1):
            self.train_jobs(*self.jobs(session, members, number), teachers, store)

    def jobs(self, session: Session, members: Sequence[Member], number: int) -> tuple[Session, list[Job]]:
        """The session of a trial, and its lanes.

        Args:
            session: that of the comparison.
            members: the students.
            number: of the trial, from 1.
        """
        trial = session.for_seed(session.settings.seed + number - 1)
        return trial, [job for member in members for job in member.jobs(trial, self.folder / f"trial-{number}")]

    def store(self, members: Sequence[Member]) -> TeacherStore | None:
        """What the teachers showed before, in all trials, if that is kept; the members share data and teachers.

        Raises:
            SettingsError: it was made for something else.
        """
        return TeacherStore.of(members[0].session, self.count)

    def train_jobs(
        self,
        trial: Session,
        jobs: Sequence[Job],
        teachers: Callable[[bool], Mapping[str, Any] | None],
        store: TeacherStore | None = None,
    ) -> None:
        """Train lanes of one trial.

        Args:
            trial: the session of that trial.
            jobs: the lanes.
            teachers: gets the teachers ready, and returns what is known of them; takes whether a lane needs them.
            store: what the teachers showed before.
        """
        for runs in passes(jobs, self.at_once, self.advice):
            needed = any(run.lane.needs_teacher for run, _ in runs)
            facts = teachers(needed)
            if needed and store is not None:
                store.open(trial.settings.seed, facts)
            self._train_pass(runs, trial, facts)

    def _train_pass(self, runs: Sequence[tuple[Run, Session]], trial: Session, facts: Mapping[str, Any] | None) -> None:
        """Train one pass of lanes side by side, then unlock their folders."""
        try:
            entering = [entered(run, own, facts, self.overrides) for run, own in runs]
            train_all(entering, measured_by_teacher(trial), facts)
        finally:
            for run, _ in runs:
                run.folder.free()
