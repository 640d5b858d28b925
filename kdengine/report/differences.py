"""What runs have in common, where they differ, and whether one table of them would mislead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdengine.config.settings import NEUTRAL
from kdengine.config.values import flat
from kdengine.errors import SettingsError
from kdengine.report.pastrun import PastRun
from kdengine.storage.scores import Scoring

__all__ = [
    "alike",
    "check_comparable",
    "common_scoring",
    "differing",
    "is_teacher_training",
    "obstacles",
    "same_network",
    "trained_like",
]

NOT_COMPARED = (*NEUTRAL, "train.precision")
"""Train settings that make no difference; instead of the precision setting, the precision that was used is compared."""


def differing(items: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names whose values are not the same in all mappings, in the order of their first appearance."""
    names = dict.fromkeys(name for item in items for name in item)
    return [name for name in names if any(item.get(name) != items[0].get(name) for item in items)]


def same_network(one: str | None, other: str | None) -> bool:
    """Whether two specs name the same network: networks of the zoo are registered with timm, so ``timm:`` may be left out."""
    return one is not None and other is not None and one.removeprefix("timm:") == other.removeprefix("timm:")


def is_teacher_training(run: PastRun, runs: Sequence[PastRun]) -> bool:
    """Whether a run trained a network that is the teacher, and never the student, of other runs among these."""
    if run.settings.methods:
        return False
    taught = [other.settings for other in runs if other.settings.methods]
    teaches = any(same_network(run.settings.student, teacher) for settings in taught for teacher in settings.teachers)
    return teaches and not any(same_network(run.settings.student, settings.student) for settings in taught)


def obstacles(runs: Sequence[PastRun]) -> list[str]:
    """Why the runs do not belong in one table; each reason such as ``different train.lr: 0.1 (runs/a), 0.05 (runs/b)``.

    How a teacher was trained is no obstacle, nor are differences between the lanes of one comparison.
    """
    reasons = []
    marks = _marks(runs)
    if len(set(marks)) > 1:
        names = [str(run.data["name"]) for run in runs]
        alike = len(set(names)) == 1
        labels = [f"{name} ({mark})" if alike else name for name, mark in zip(names, marks, strict=True)]
        reasons.append(f"different data: {_who(labels, runs)}")
    if runs[0].comparison and len({run.comparison for run in runs}) == 1:
        return reasons  # its lanes were made to be compared
    students = [run for run in runs if not is_teacher_training(run, runs)]
    trained = _trained(students)
    for name in differing(trained):
        values = [_word(item.get(name)) for item in trained]
        reasons.append(f"different {name}: {_who(values, students)}")
    return reasons


def alike(runs: Sequence[PastRun]) -> list[tuple[str, list[PastRun]]]:
    """The runs in groups that belong in one table each, every group with what tells it from the others.

    A comparison is a group of its own unless all runs belong together. The training of a teacher stands with its students.
    """
    if not obstacles(runs):
        return [("", list(runs))]
    groups: dict[Any, list[PastRun]] = {}
    facts: dict[Any, dict[str, Any]] = {}
    teachers = [run for run in runs if is_teacher_training(run, runs)]
    for run, mark, how in zip(runs, _marks(runs), _trained(runs), strict=True):
        if run in teachers:
            continue
        key = run.comparison or (mark, run.settings.task, repr(sorted(how.items())))
        groups.setdefault(key, []).append(run)
        named = {"comparison": run.comparison.name} if run.comparison else how
        facts.setdefault(key, {"data": run.data["name"], "fingerprint": mark, "task": run.settings.task, **named})
    for run in teachers:
        taught = [group for group in groups.values() if is_teacher_training(run, [run, *group])]
        (taught or list(groups.values()))[0].append(run)
    return [(_told_apart(facts[key], list(facts.values())), group) for key, group in groups.items()]


def trained_like(one: PastRun, other: PastRun) -> bool:
    """Whether two runs trained the same student with the same seed, data and settings, whatever taught it."""
    same = one.settings.student == other.settings.student and one.settings.seed == other.settings.seed
    return same and len(set(_marks([one, other]))) == 1 and not differing(_trained([one, other]))


def _told_apart(own: Mapping[str, Any], every: Sequence[Mapping[str, Any]]) -> str:
    """``digits, train.lr 0.05``: the data, and what not all groups have."""
    if "comparison" in own:
        return f"Comparison {own['comparison']}"
    names = [name for name in differing([one for one in every if "comparison" not in one]) if name != "data"]
    marks = {one["fingerprint"] for one in every if one["data"] == own["data"]}
    names = [name for name in names if name != "fingerprint" or len(marks) > 1]
    return ", ".join([str(own["data"]), *(f"{name} {_word(own.get(name))}" for name in names if name in own)])


def check_comparable(runs: Sequence[PastRun]) -> None:
    """Refuse a table over runs that would mislead.

    Raises:
        SettingsError: the runs used different data or were trained differently; the message lists the differences.
    """
    reasons = obstacles(runs)
    if reasons:
        lines = "".join(f"\n  {reason}" for reason in reasons)
        raise SettingsError(f"One table over these runs would mislead (--mixed allows it):{lines}")


def common_scoring(runs: Sequence[PastRun]) -> Scoring:
    """The measures of the one task that all runs have; a run that was killed before it recorded its task has any.

    Raises:
        SettingsError: the runs have different tasks; no option allows that, because their scores are not of one kind.
    """
    known = [run for run in runs if run.names_task] or list(runs)
    scorings = [run.scoring for run in known]
    if any(scoring != scorings[0] for scoring in scorings):
        tasks = [f"{scoring.task}, measured by {' and '.join(m.title for m in scoring.measures)}" for scoring in scorings]
        raise SettingsError(
            f"These runs have different tasks, so no table or plot can hold them all: {_who(tasks, known)}. Report the runs of "
            "each task on their own."
        )
    return scorings[0]


def _marks(runs: Sequence[PastRun]) -> list[str]:
    """The fingerprint of each run's data; if unknown, that of data with the same name."""
    known = {run.data["name"]: run.data["fingerprint"] for run in runs if run.data.get("fingerprint")}
    return [str(run.data.get("fingerprint") or known.get(run.data["name"]) or run.data["name"]) for run in runs]


def _trained(runs: Sequence[PastRun]) -> list[dict[str, Any]]:
    """How each run was trained; an unknown precision is taken to be that of the others."""
    settings = [flat(run.settings.model_dump(mode="json", include={"train", "student_input"})) for run in runs]
    precision = next((run.manifest["precision"] for run in runs if "precision" in run.manifest), None)
    return [
        {name: value for name, value in item.items() if name not in NOT_COMPARED}
        | {"precision": run.manifest.get("precision", precision)}
        for item, run in zip(settings, runs, strict=True)
    ]


def _who(values: Sequence[str], runs: Sequence[PastRun]) -> str:
    """``0.1 (runs/a and 2 more), 0.05 (runs/d)``."""
    folders: dict[str, list[str]] = {}
    for value, run in zip(values, runs, strict=True):
        folders.setdefault(value, []).append(str(run.folder))
    return ", ".join(f"{value} ({_first_of(named)})" for value, named in folders.items())


def _first_of(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _word(value: Any) -> str:
    return "not set" if value is None else str(value)
