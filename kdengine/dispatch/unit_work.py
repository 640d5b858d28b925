"""What a worker does with a unit: it resumes the comparison of a folder for a few lanes of one trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdengine.dispatch.duty import on_duty
from kdengine.dispatch.handover import take_teachers
from kdengine.plugins.registry import Registry
from kdengine.runs.assignment import Assignment
from kdengine.runs.comparison_note import ComparisonNote
from kdengine.runs.members import members_of
from kdengine.runs.named_observers import select_observers
from kdengine.runs.students import StudentSpec, lanes_of_all
from kdengine.runs.trials import Trials
from kdengine.storage.locks import wait_until_free

__all__ = ["train_lanes"]

PATIENCE = 120.0
"""Seconds to wait for a lane whose last worker is still saving its state, or has not noticed that it was given up."""


def train_lanes(
    folder: str,
    trial: int,
    lanes: Sequence[str],
    files: str,
    expected: Mapping[str, Any],
    argv: Sequence[str],
    events: str = "events.jsonl",
    **trials: Any,
) -> None:
    """Train some lanes of one trial, from their saved states if there are any.

    Args:
        folder: the folder of the comparison.
        trial: number of the trial, from 1.
        lanes: folders of the lanes within that of the trial.
        files: the folder with the teachers.
        expected: what must be true here; see :func:`kdengine.launchers.fitness.unfit`.
        argv: the command of the driver, for the manifests.
        events: the name of the file for events in ``files``.
        **trials: further fields of :class:`kdengine.runs.trials.Trials`.

    Raises:
        LaunchError: this worker is not fit for the work.
        KDError: for anything the user can fix.
    """
    with on_duty(expected, argv, Path(files) / events) as writer:
        note = ComparisonNote.read(Path(folder), trust=True)  # the driver asked for trust, or wrote it
        settings = note.settings.model_copy(update={"methods": ()})
        registry = Registry()
        select_observers(note.more.get("observers", ()), registry)
        session = Assignment.complete(settings, registry=registry, observers=[writer]).session()
        students = list(note.students) or [StudentSpec(settings.student, weights=settings.student_weights)]
        members = members_of(session, students, lanes_of_all(students, note.lanes))
        facts = take_teachers(session, Path(files))
        work = Trials(Path(folder), **trials)
        own, jobs = work.jobs(session, members, trial)
        place = Path(folder) / f"trial-{trial}"
        wanted = [job for job in jobs if job.folder.relative_to(place).as_posix() in lanes]
        wait_until_free([job.folder for job in wanted], PATIENCE)
        if wanted:
            work.train_jobs(own, wanted, lambda needed: facts, work.store(members))
