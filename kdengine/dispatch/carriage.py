"""A comparison whose lanes are trained by other processes: what its driver does from the first check to the last unit."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from kdengine.dispatch.connecting import connect
from kdengine.dispatch.driver import Driver
from kdengine.dispatch.estimates import Estimates
from kdengine.dispatch.handover import lay_teachers
from kdengine.dispatch.in_process import InProcess
from kdengine.dispatch.plan import PlannedUnit, plan_units
from kdengine.dispatch.travel import carried_environment, check_can_travel
from kdengine.launchers.launcher import Launcher
from kdengine.launchers.unit import Unit
from kdengine.plugins.registry import Registry
from kdengine.progress.units import UnitsProgress
from kdengine.runs.assignment import Assignment
from kdengine.runs.lost_lanes import record_lost
from kdengine.runs.members import Member
from kdengine.runs.ready_teachers import ready_teachers
from kdengine.runs.session import Session
from kdengine.runs.train import train_teacher
from kdengine.runs.trials import Trials
from kdengine.storage.runfolder import RunFolder
from kdengine.training.signals import Stopped

__all__ = ["Carriage", "Carrier", "carriage_by", "carried", "launcher_named"]

FOLDER = "units"
"""The folder, within that of a comparison, with what driver and workers tell each other, and the logs of the units."""
WORK = "kdengine.dispatch.unit_work:train_lanes"


def launcher_named(on: str | Launcher, registry: Registry, options: Mapping[str, Any] | None = None) -> Launcher:
    """The launcher that a caller asks for.

    Args:
        on: its name, or the launcher itself.
        registry: finds launchers.
        options: options of a launcher that is given by name.

    Raises:
        PluginError: there is no such launcher.
        SettingsError: an option is unknown or invalid.
    """
    return on if isinstance(on, Launcher) else registry.launcher(on)(**(options or {}))


@contextmanager
def carriage_by(on: str | Launcher, registry: Registry, shows: bool = True) -> Iterator[Carriage]:
    """A carriage by a launcher, which is closed at the end.

    Args:
        on: the launcher, or its name.
        registry: finds launchers.
        shows: whether to show progress.

    Raises:
        PluginError: there is no such launcher.
    """
    launcher = launcher_named(on, registry)
    try:
        yield Carriage(launcher, shows)
    finally:
        launcher.close()


@contextmanager
def carried(on: str | Launcher | None, registry: Registry, shows: bool = True) -> Iterator[Carrier]:
    """What trains the lanes: a carriage as :func:`carriage_by` makes it, or this process without a launcher."""
    if on is None:
        yield InProcess()
        return
    with carriage_by(on, registry, shows) as carriage:
        yield carriage


class Carriage:
    """Trains the lanes of a comparison, and of the probes before it, by a launcher.

    Args:
        launcher: the launcher; it is opened once, for all of these.
        shows: whether to show progress.
    """

    def __init__(self, launcher: Launcher, shows: bool = True) -> None:
        self.launcher = launcher
        self.shows = shows
        self._estimates = Estimates()
        self._expected: dict[str, Any] | None = None

    def check(self, assignment: Assignment, members: Sequence[Member]) -> None:
        """Check that everything can travel.

        Args:
            assignment: what was asked for.
            members: the students with their lanes.

        Raises:
            LaunchError: says what cannot.
        """
        check_can_travel(assignment, members[0].session, [lane for member in members for lane in member.lanes])

    def open(self, assignment: Assignment, members: Sequence[Member], folder: Path | None) -> None:
        """Connect to workers that are fit for the job, unless that was done for a comparison around this one.

        Args:
            assignment: what was asked for.
            members: the students with their lanes.
            folder: that of the comparison, which exists; None to look at a plan only, which leaves no trace.

        Raises:
            LaunchError: names the worker that is not fit, and says why.
        """
        if self._expected is not None:
            return
        self.check(assignment, members)
        self._expected = connect(self.launcher, members[0].session, None if folder is None else folder / FOLDER)

    def plan(self, trials: Trials, session: Session, members: Sequence[Member]) -> list[PlannedUnit]:
        """The units for all lanes that are not finished."""
        every = {number: trials.jobs(session, members, number)[1] for number in range(1, trials.count + 1)}
        left = {number: [job for job in jobs if not RunFolder(job.folder).ended] for number, jobs in every.items()}
        return plan_units(left, self.launcher, self._estimates)

    def describe(self, trials: Trials, session: Session, members: Sequence[Member]) -> list[dict[str, Any]]:
        """The units as plain data, with the resources of each."""
        rows = []
        for planned in self.plan(trials, session, members):
            unit = Unit(planned.name, WORK, lanes=len(planned.jobs), memory=planned.memory)
            rows.append({**planned.describe(), **vars(self.launcher.resources(unit))})
        return rows

    def train(self, trials: Trials, session: Session, members: Sequence[Member]) -> None:
        """Get the teachers ready, then train all lanes of all trials that are not finished.

        Args:
            trials: how often, and where.
            session: trains the teachers.
            members: the students; their settings follow their networks.

        Raises:
            Stopped: interrupted; every unit has saved its state.
            LaunchError: a worker is not fit.
        """
        place, planned = trials.folder / FOLDER, self.plan(trials, session, members)
        if not planned:
            shutil.rmtree(place, ignore_errors=True)
            return
        needed = any(unit.needs_teacher for unit in planned)
        facts = ready_teachers(session, needed, partial(train_teacher, session))
        place.mkdir(exist_ok=True)
        lay_teachers(session, facts, place)
        progress = UnitsProgress(session.task.scoring.headline, self.shows)
        given_up: list[PlannedUnit] = []

        def give_up(unit: PlannedUnit, reason: str) -> None:
            given_up.append(unit)
            for job in unit.jobs:
                record_lost(job, reason)

        units = {one.name: (one, self._unit(one, trials, place), place / f"{one.name}.jsonl") for one in planned}
        progress.say(f"{len(units)} units by the launcher '{self.launcher.name}'; their logs are in {place}")
        try:
            Driver(self.launcher, progress, give_up).run(units)
        except Stopped:
            progress.close()
            progress.say(f"Interrupted; every unit has saved its state. To resume: {self._advice(trials)}")
            raise
        finally:
            progress.close()
        if not given_up:
            shutil.rmtree(place, ignore_errors=True)

    def _advice(self, trials: Trials) -> str:
        return f"{trials.advice} --on {self.launcher.name}"

    def _unit(self, planned: PlannedUnit, trials: Trials, place: Path) -> Unit:
        """What the launcher gets."""
        arguments = {
            "folder": str(trials.folder),
            "trial": planned.trial,
            "lanes": planned.labels,
            "files": str(place),
            "expected": self._expected,
            "argv": sys.argv,
            "events": f"{planned.name}.jsonl",
            "count": trials.count,
            "at_once": trials.at_once,
            "advice": trials.advice,
            "overrides": trials.overrides,
        }
        log = str((place / f"{planned.name}.log").absolute())
        common: dict[str, Any] = {"folder": os.getcwd(), "environment": carried_environment(), "log": log}
        return Unit(planned.name, WORK, arguments, len(planned.jobs), memory=planned.memory, **common)


Carrier = Carriage | InProcess
"""What trains the lanes of a comparison."""
