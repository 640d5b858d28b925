"""Which lanes go together: whole trials, or parts of trials where workers would be idle otherwise."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kdengine.dispatch.estimates import Estimate, Estimates
from kdengine.launchers.launcher import Launcher
from kdengine.launchers.unit import Outcome
from kdengine.runs.lane_runs import Job
from kdengine.storage.runfolder import RunFolder

__all__ = ["PlannedUnit", "plan_units"]


@dataclass(frozen=True)
class PlannedUnit:
    """Lanes of one trial that share the forwards of the teachers.

    Attributes:
        name: ``trial-2``, or ``trial-2-part-1``.
        trial: number of the trial, from 1.
        jobs: its lanes.
        memory: bytes that they hold between batches, estimated.
        cost: operations, for each image of an epoch, estimated.
        needs_teacher: whether a teacher runs for it.
    """

    name: str
    trial: int
    jobs: Sequence[Job] = field(repr=False)
    memory: int = 0
    cost: float = 0.0
    needs_teacher: bool = False

    @property
    def labels(self) -> list[str]:
        """Its lanes as their folders are named within the trial: ``st``, or ``resnet8/st``."""
        return ["/".join(filter(None, (job.spec.student, job.spec.label))) for job in self.jobs]

    def has_ended(self, outcome: Outcome) -> bool:
        """Whether each of its lanes has a result or a failure, whatever its worker says."""
        return all(RunFolder(job.folder).ended for job in self.jobs)

    def describe(self) -> dict[str, Any]:
        """Convert to plain data."""
        return {"unit": self.name, "trial": self.trial, "lanes": self.labels, "teacher_pass": self.needs_teacher}


def plan_units(trials: Mapping[int, Sequence[Job]], launcher: Launcher, estimates: Estimates) -> list[PlannedUnit]:
    """Units for the lanes of all trials, the most expensive ones first.

    Args:
        trials: the lanes that are not finished, by the number of their trial.
        launcher: says how many units can run at once, and may limit the lanes in each.
        estimates: what lanes cost.
    """
    units: list[PlannedUnit] = []
    open_trials = {number: jobs for number, jobs in trials.items() if jobs}
    for number, jobs in open_trials.items():
        costs = [estimates.of(job) for job in jobs]
        parts = _parts(costs, len(open_trials), launcher)
        groups = balanced([cost.cost for cost in costs], parts)
        for place, group in enumerate(groups, 1):
            name = f"trial-{number}" if len(groups) == 1 else f"trial-{number}-part-{place}"
            units.append(_unit(name, number, [jobs[index] for index in group], [costs[index] for index in group]))
    return sorted(units, key=lambda unit: (-unit.cost, unit.trial))


def _unit(name: str, trial: int, jobs: Sequence[Job], costs: Sequence[Estimate]) -> PlannedUnit:
    teaching = max(cost.teaching for cost in costs)
    memory, cost = sum(cost.memory for cost in costs), teaching + sum(cost.cost for cost in costs)
    return PlannedUnit(name, trial, jobs, memory, cost, any(cost.needs_teacher for cost in costs))


def _parts(costs: Sequence[Estimate], trials: int, launcher: Launcher) -> int:
    """Into how many units to split a trial."""
    lanes = len(costs)
    if launcher.options.lanes is not None:
        return math.ceil(lanes / int(launcher.options.lanes))
    if trials >= launcher.at_once(lanes):
        return 1
    own, teaching = sum(cost.cost for cost in costs), max(cost.teaching for cost in costs)
    return fewest_parts(lanes, trials, own, teaching, launcher.at_once)


def fewest_parts(lanes: int, trials: int, own: float, teaching: float, at_once: Callable[[int], int]) -> int:
    """The number of parts with which all trials end first, by estimate; of several, the one that teaches least often.

    Args:
        lanes: lanes of a trial.
        trials: number of trials.
        own: cost of all lanes of a trial.
        teaching: cost of the teachers, which every part has to pay.
        at_once: how many units of so many lanes run at the same time.
    """

    def duration(parts: int) -> float:
        largest = math.ceil(lanes / parts)
        return math.ceil(trials * parts / at_once(largest)) * (teaching + own * largest / lanes)

    return min(range(1, lanes + 1), key=lambda parts: (duration(parts), parts))


def balanced(costs: Sequence[float], parts: int) -> list[list[int]]:
    """Indices of lanes in so many groups of about the same cost, none empty; within a group they keep their order."""
    groups: list[list[int]] = [[] for _ in range(min(parts, len(costs)))]
    for index in sorted(range(len(costs)), key=lambda index: -costs[index]):
        least = min(groups, key=lambda group: (sum((costs[member] for member in group), 0.0), len(group)))
        least.append(index)
    return sorted(sorted(group) for group in groups)
