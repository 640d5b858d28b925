"""Resolves a distiller's taps on both networks, pairs them, and selects its part of a trace."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from kdengine.errors import TapError
from kdengine.methods.distiller import Distiller
from kdengine.methods.matching import match_stages
from kdengine.taps import Anatomy, Trace, split_pair
from kdengine.taps.anatomy import TapPoint

__all__ = ["TapBinding", "match_places", "read_taps"]

Place = tuple[str, float]
"""The name of a tap and the side of its map."""


@dataclass(frozen=True)
class TapBinding:
    """The taps that one distiller reads in one training phase.

    Attributes:
        names: for each pair of taps, its name in the student's and in the teacher's trace, prefixed with ``=`` if the
            distiller uses the bare name for another point.
        student: the student's points by name.
        teacher: the teacher's points by name.
        student_aliases: further names under which the distiller may read the student's taps.
        teacher_aliases: the same for the teacher.
        rectified: names of the teacher's taps that are outputs of a ReLU.
    """

    names: tuple[tuple[str, str], ...] = ()
    student: Mapping[str, TapPoint] = field(default_factory=dict)
    teacher: Mapping[str, TapPoint] = field(default_factory=dict)
    student_aliases: Mapping[str, str] = field(default_factory=dict)
    teacher_aliases: Mapping[str, str] = field(default_factory=dict)
    rectified: frozenset[str] = frozenset()

    def of_student(self, trace: Trace) -> Trace:
        """The part of the student's trace that the distiller reads, under all names it may use."""
        return trace.renamed({**{name: name for name in self.student}, **self.student_aliases})

    def of_teacher(self, trace: Trace) -> Trace:
        """The part of the teacher's trace that the distiller reads, under all names it may use."""
        return trace.renamed({**{name: name for name in self.teacher}, **self.teacher_aliases})


def read_taps(distiller: Distiller, phase: str, student: Anatomy, teacher: Anatomy) -> TapBinding | None:
    """Resolve the distiller's taps of a phase on both networks; None if it has no term in that phase.

    A tap with which the user replaced a declared one is available under the declared name too, so that ``forward`` works
    unchanged.

    Raises:
        TapError: a tap matches nothing on one side.
    """
    taps = distiller.taps_in(phase)
    if taps is None:
        return None
    names: list[tuple[str, str]] = []
    points: tuple[dict[str, TapPoint], dict[str, TapPoint]] = ({}, {})
    aliases: tuple[dict[str, str], dict[str, str]] = ({}, {})
    for text in taps:
        resolved = [anatomy.resolve(name) for anatomy, name in zip((student, teacher), split_pair(text), strict=True)]
        names += match_places(_places(student, resolved[0]), _places(teacher, resolved[1]), f"{distiller.name}: '{text}'")
        for side in (0, 1):
            points[side].update(resolved[side])
            if len(resolved[side]) == 1:
                aliases[side].update(dict.fromkeys(_names_of(distiller, text, side), next(iter(resolved[side]))))
    used = [{name: side[name] for name in dict.fromkeys(column)} for side, column in zip(points, _columns(names), strict=True)]
    keys = tuple((_key(student, aliases[0]), _key(teacher, aliases[1])) for student, teacher in names)
    rectified = frozenset(name for name, point in used[1].items() if teacher.rectified(point))
    return TapBinding(keys, used[0], used[1], *aliases, rectified)


def _names_of(distiller: Distiller, text: str, side: int) -> list[str]:
    """The names by which the distiller may read a tap.

    The name that it declared, and the name that the user wrote unless the distiller declares that for another tap.
    """
    given = distiller.options.taps or ()
    if len(given) != len(distiller.taps):
        return [split_pair(text)[side]]
    declared = [split_pair(tap)[side] for tap in distiller.taps]
    replaced = [name for name, tap in zip(declared, given, strict=True) if tap == text]
    written = split_pair(text)[side]
    return replaced if replaced and written in declared else [written, *replaced]


def _key(name: str, aliases: dict[str, str]) -> str:
    """The name of a point in the distiller's trace; ``=name`` if the distiller uses the name for another point."""
    if aliases.get(name, name) == name:
        return name
    aliases[f"={name}"] = name
    return f"={name}"


def _columns(names: Sequence[tuple[str, str]]) -> tuple[list[str], list[str]]:
    return [student for student, _ in names], [teacher for _, teacher in names]


def match_places(student: Sequence[Place], teacher: Sequence[Place], what: str) -> list[tuple[str, str]]:
    """Pair two lists of points, each shallow to deep: one to one, or by size and relative depth if one is longer.

    Args:
        student: for each point, its name and the side of its map.
        teacher: the same.
        what: the taps, for errors.

    Raises:
        TapError: one list is empty.
    """
    if not student or not teacher:
        side = "the student" if not student else "the teacher"
        raise TapError(f"{what} matches nothing in {side}, which has no such stages. Name its taps as 'STUDENT=TEACHER'.")
    sides = [side for _, side in student], [side for _, side in teacher]
    if len(student) <= len(teacher):
        return [(name, teacher[met][0]) for (name, _), met in zip(student, match_stages(*sides), strict=True)]
    return [(student[met][0], name) for (name, _), met in zip(teacher, match_stages(*reversed(sides)), strict=True)]


def _places(anatomy: Anatomy, points: Mapping[str, TapPoint]) -> list[Place]:
    return [(name, _side(anatomy.tensor(point))) for name, point in points.items()]


def _side(tensor: Tensor) -> float:
    """Side of a map [B, C, H, W], the geometric mean of height and width; 1 for anything else."""
    return math.sqrt(tensor.shape[2] * tensor.shape[3]) if tensor.ndim == 4 else 1.0
