"""A teacher store that other processes fill: a unit for each seed."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from kdengine.dispatch.connecting import connect
from kdengine.dispatch.driver import Driver
from kdengine.dispatch.handover import lay_teachers
from kdengine.dispatch.travel import carried_environment, check_can_travel
from kdengine.errors import LaunchError, StorageError
from kdengine.launchers.launcher import Launcher
from kdengine.launchers.unit import Outcome, Unit
from kdengine.progress.filling import FillingProgress
from kdengine.runs.assignment import Assignment
from kdengine.runs.ready_teachers import ready_teachers
from kdengine.runs.teach import Filling
from kdengine.runs.train import train_teacher

__all__ = ["SeedUnit", "Teaching"]

WORK = "kdengine.dispatch.seed_work:fill_seed"
PLACE = ".units-"
"""How the folder in a store begins in which driver and workers tell each other things; a store overlooks hidden names."""


@dataclass(frozen=True)
class SeedUnit:
    """One seed of a store.

    Attributes:
        seed: the seed.
    """

    seed: int

    @property
    def name(self) -> str:
        """``seed-3``."""
        return f"seed-{self.seed}"

    def has_ended(self, outcome: Outcome) -> bool:
        """Whether it is filled; a worker that was lost before it said so is followed by one that looks."""
        return outcome.kind == "done"


@dataclass
class Teaching:
    """Fills a store by a launcher, which is closed by the caller.

    Attributes:
        filling: what is to be filled, checked.
        assignment: what was asked for.
        launcher: carries the seeds.
    """

    filling: Filling
    assignment: Assignment
    launcher: Launcher
    _failed: dict[int, str] = field(default_factory=dict, init=False)

    def units(self) -> list[dict[str, Any]]:
        """The units as plain data, with the resources of each; leaves no trace."""
        self._check()
        connect(self.launcher, self.filling.session, None)
        rows = []
        for planned in self._planned:
            resources = self.launcher.resources(Unit(planned.name, WORK))
            rows.append({"unit": planned.name, "seed": planned.seed, **vars(resources)})
        return rows

    def run(self, progress: FillingProgress) -> dict[str, Any]:
        """Fill the store, and return facts about it; teachers without weights are trained here first.

        Args:
            progress: hears what the workers tell.

        Raises:
            KDError: for anything the user can fix; names the seeds that could not be filled.
            Stopped: it was interrupted; what was written is kept.
        """
        self._check()
        self.filling.forecast.check()
        with self._place() as place:
            expected = connect(self.launcher, self.filling.session, place)
            session = self.filling.session
            lay_teachers(session, ready_teachers(session, True, partial(train_teacher, session)), place)
            units = {one.name: (one, self._unit(one, place, expected), place / f"{one.name}.jsonl") for one in self._planned}
            progress.say(f"{len(units)} units by the launcher '{self.launcher.name}'; their logs are in {place}")
            Driver(self.launcher, progress, self._give_up).run(units)
            self._check_all_filled(place)
        return self.filling.facts()

    @property
    def _planned(self) -> list[SeedUnit]:
        return [SeedUnit(seed) for seed in self.filling.store.seeds]

    def _check(self) -> None:
        """Refuse objects that exist in this process alone; the student does not matter."""
        modules = {role: module for role, module in self.assignment.modules.items() if role != "student"}
        check_can_travel(replace(self.assignment, modules=modules), self.filling.session, ())

    def _give_up(self, unit: SeedUnit, reason: str) -> None:
        self._failed[unit.seed] = reason

    def _check_all_filled(self, place: Path) -> None:
        """Say what could not be filled.

        Raises:
            LaunchError: names the seeds, and says why.
        """
        if self._failed:
            reasons = "; ".join(f"seed {seed}: {reason}" for seed, reason in sorted(self._failed.items()))
            raise LaunchError(
                f"Not everything could be filled. {reasons}. What was written is kept, and the logs are in {place}: "
                "mend that, and run the same command again."
            )

    @contextmanager
    def _place(self) -> Iterator[Path]:
        """A folder in the store, which all workers see; it is kept only where a seed could not be filled."""
        store = self.filling.store.folder.path
        try:
            store.mkdir(parents=True, exist_ok=True)
            place = Path(tempfile.mkdtemp(prefix=PLACE, dir=store)).absolute()
        except OSError as error:
            raise StorageError(
                f"The teacher store '{store}' cannot be written to: {error.strerror}. Name another --teacher-store."
            ) from error
        try:
            yield place
        finally:
            if not self._failed:
                shutil.rmtree(place, ignore_errors=True)
            with suppress(OSError):
                store.rmdir()  # if nothing was written into a new one

    def _unit(self, planned: SeedUnit, place: Path, expected: Mapping[str, Any]) -> Unit:
        """What the launcher gets."""
        arguments = {
            "settings": self.assignment.settings.model_dump(mode="json", exclude_none=True),
            "seed": planned.seed,
            "trials": len(self.filling.store.seeds),
            "views": self.filling.views,
            "files": str(place),
            "events": f"{planned.name}.jsonl",
            "expected": expected,
            "argv": sys.argv,
        }
        log = str(place / f"{planned.name}.log")
        return Unit(planned.name, WORK, arguments, folder=os.getcwd(), environment=carried_environment(), log=log)
