"""What plots show: runs that differ only in their seed form one series, with means and spreads over the runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, stdev
from typing import Any, NamedTuple

from kdengine.config.settings import NEUTRAL
from kdengine.config.values import flat
from kdengine.report.columns import rank
from kdengine.report.differences import common_scoring, differing, is_teacher_training
from kdengine.report.pastrun import FAILED, FINISHED, UNFINISHED, PastRun
from kdengine.storage.scores import Measure

__all__ = ["Curve", "Series", "series_of"]

MAY_DIFFER = ("seed", *NEUTRAL)
"""Settings in which the trials of one line may differ."""
OF_A_TEACHER = (
    *("teacher", "further_teachers", "teacher_weights", "further_teacher_weights", "teacher_train", "teacher_input"),
    "options",
)
"""Settings that change nothing in a run without a teacher."""
MANY = 3
"""More settings than this do not fit in a label."""


class Curve(NamedTuple):
    """A number over epochs: its mean over the runs that reached the epoch, and one standard deviation to each side."""

    epochs: list[int]
    mean: list[float]
    low: list[float]
    high: list[float]

    def split(self, starts: Sequence[int]) -> list[Curve]:
        """Its parts before, between and after the epochs in ``starts``; parts without a point are left out."""
        edges = [0, *(sum(epoch < start for epoch in self.epochs) for start in starts), len(self.epochs)]
        return [
            Curve(self.epochs[begin:end], self.mean[begin:end], self.low[begin:end], self.high[begin:end])
            for begin, end in pairwise(edges)
            if begin < end
        ]


@dataclass(frozen=True)
class Series:
    """Runs that are drawn as one line.

    Attributes:
        label: the method, and what distinguishes the series from others of the same method.
        role: ``method``, ``plain``, or ``teacher`` for the training of a teacher itself.
        runs: the trials.
        headline: the measure that their task is judged by.
    """

    label: str
    role: str
    runs: tuple[PastRun, ...]
    headline: Measure

    def scores(self, split: str) -> Curve:
        """The student's headline score in its unit; ``split`` is ``test`` or ``train``."""
        name = f"{split}_{self.headline.name}"
        limits = (0.0, 100.0) if self.headline.unit == "%" else (-math.inf, math.inf)
        return _curve([{row["epoch"]: row.get(name) for row in run.student_rows} for run in self.runs], limits)

    def terms(self) -> dict[str, Curve]:
        """Every loss term by name, in the order of first appearance."""
        names = dict.fromkeys(name for run in self.runs for row in run.rows for name in row["terms"])
        return {
            name: _curve([{row["epoch"]: row["terms"].get(name) for row in run.rows} for run in self.runs]) for name in names
        }

    def phase_starts(self) -> list[int]:
        """First epochs of all phases but the first, in the run that got furthest."""
        rows = max((run.rows for run in self.runs), key=len)
        return [row["epoch"] for before, row in pairwise(rows) if _phase_of(before) != _phase_of(row)]

    @property
    def last(self) -> float | None:
        """The last headline score on the test images, as drawn; None if nothing was measured."""
        mean = self.scores("test").mean
        return mean[-1] if mean else None

    @property
    def rank(self) -> tuple[bool, bool, float]:
        """Sorts the best last score first, and the training of teachers to the end."""
        return (self.role == "teacher", *rank(self.headline, self.last))

    @property
    def state(self) -> str:
        """The worst state of its runs."""
        states = {run.state for run in self.runs}
        return next(state for state in (FAILED, UNFINISHED, FINISHED) if state in states)

    @property
    def failed(self) -> bool:
        """Whether all its runs failed."""
        return all(run.state == FAILED for run in self.runs)

    @property
    def note(self) -> str:
        """The state of the runs that did not finish: ``failed``, or ``1 of 3 unfinished``."""
        counts = {state: sum(run.state == state for run in self.runs) for state in (FAILED, UNFINISHED)}
        total = len(self.runs)
        return ", ".join(f"{count} of {total} {state}" if total > 1 else state for state, count in counts.items() if count)


def series_of(runs: Sequence[PastRun]) -> list[Series]:
    """The runs, grouped into lines, in the order of first appearance.

    Raises:
        SettingsError: the runs have different tasks.
    """
    headline = common_scoring(runs).headline
    teachers = [run for run in runs if is_teacher_training(run, runs)]
    groups = _grouped([run for run in runs if run not in teachers])
    labels = _labels(groups)
    students = [
        Series(label, "method" if group[0].settings.methods else "plain", tuple(group), headline)
        for label, group in zip(labels, groups, strict=True)
    ]
    own = _grouped(teachers)
    named = [f"{group[0].settings.student} in training" for group in own]
    return [
        *students,
        *(Series(name, "teacher", tuple(group), headline) for name, group in zip(_unique(named, own), own, strict=True)),
    ]


def _phase_of(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row.get("chain_step"), row.get("phase")


def _curve(runs: Iterable[Mapping[int, float | None]], limits: tuple[float, float] = (-math.inf, math.inf)) -> Curve:
    """Means and spreads over what was measured; non-finite numbers are left out, and spreads end at the limits."""
    values: dict[int, list[float]] = {}
    for run in runs:
        for epoch, value in run.items():
            if value is not None and math.isfinite(value):
                values.setdefault(epoch, []).append(value)
    epochs = sorted(values)
    mean = [fmean(values[epoch]) for epoch in epochs]
    spread = [stdev(values[epoch]) if len(values[epoch]) > 1 else 0.0 for epoch in epochs]
    low = [max(centre - wide, min(centre, limits[0])) for centre, wide in zip(mean, spread, strict=True)]
    high = [min(centre + wide, max(centre, limits[1])) for centre, wide in zip(mean, spread, strict=True)]
    return Curve(epochs, mean, low, high)


def _grouped(runs: Sequence[PastRun]) -> list[list[PastRun]]:
    """Runs with the same settings except for the seed; in a comparison, runs of a student with the same label."""
    groups: dict[Any, list[PastRun]] = {}
    for run in runs:
        key = (run.comparison, run.of_student, run.method) if run.comparison else repr(sorted(_deciding(run).items()))
        groups.setdefault(key, []).append(run)
    return list(groups.values())


def _deciding(run: PastRun) -> dict[str, Any]:
    """The settings that distinguish one line from another."""
    values = run.settings.model_dump(mode="json")
    left_out = (*MAY_DIFFER, *(() if run.settings.methods else OF_A_TEACHER))
    kept = flat({name: value for name, value in values.items() if name not in left_out})
    return {name: value for name, value in kept.items() if name not in left_out} | {"images": run.data.get("fingerprint")}


def _labels(groups: Sequence[Sequence[PastRun]]) -> list[str]:
    """The method of each group; if several groups have the same method, with the settings in which they differ."""
    methods = [f"{group[0].of_student} {group[0].method}".strip() for group in groups]
    labels = []
    for method, group in zip(methods, groups, strict=True):
        alike = [_deciding(other[0]) for name, other in zip(methods, groups, strict=True) if name == method]
        names, own = differing(alike), _deciding(group[0])
        settings = ", ".join(f"{name.rpartition('.')[2]}={own.get(name)}" for name in names)
        labels.append(f"{method} ({settings})" if names and len(names) <= MANY else method)
    return _unique(labels, groups)


def _unique(labels: Sequence[str], groups: Sequence[Sequence[PastRun]]) -> list[str]:
    """Labels; those that occur more than once with the folder of their first run."""
    return [
        f"{label} ({group[0].folder})" if labels.count(label) > 1 else label
        for label, group in zip(labels, groups, strict=True)
    ]
