"""Resolves a distiller's taps on both networks, pairs them, and selects its part of a trace."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from kdengine.errors import SettingsError, TapError
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
        student_only: names of the taps that are read on the student alone, in the order in which they are declared.
        teacher_only: the same for the teacher.
        number: which of the lane's teachers it reads, from 0.
        others: what it reads of further teachers, if it reads all of them at once.
    """

    names: tuple[tuple[str, str], ...] = ()
    student: Mapping[str, TapPoint] = field(default_factory=dict)
    teacher: Mapping[str, TapPoint] = field(default_factory=dict)
    student_aliases: Mapping[str, str] = field(default_factory=dict)
    teacher_aliases: Mapping[str, str] = field(default_factory=dict)
    rectified: frozenset[str] = frozenset()
    student_only: tuple[str, ...] = ()
    teacher_only: tuple[str, ...] = ()
    number: int = 0
    others: tuple[TapBinding, ...] = ()

    def of_student(self, trace: Trace) -> Trace:
        """The part of the student's trace that the distiller reads, under all names it may use."""
        return trace.renamed({**{name: name for name in self.student}, **self.student_aliases})

    def of_teacher(self, trace: Trace) -> Trace:
        """The part of the teacher's trace that the distiller reads, under all names it may use."""
        return trace.renamed({**{name: name for name in self.teacher}, **self.teacher_aliases})


def read_taps(distiller: Distiller, phase: str, student: Anatomy, teacher: Anatomy | None) -> TapBinding | None:
    """Resolve the distiller's taps of a phase on both networks; None if it has no term in that phase.

    A tap with which the user replaced a declared one is available under the declared name too, so that ``forward`` works
    unchanged.

    Args:
        distiller: the method.
        phase: name of the phase.
        student: the student's anatomy.
        teacher: the teacher's; None without a teacher.

    Raises:
        TapError: a tap matches nothing on one side.
        SettingsError: the method reads a teacher, and there is none.
    """
    taps = distiller.taps_in(phase)
    if taps is None:
        return None
    reading = _Reading(distiller, (student, teacher))
    for text in taps:
        reading.pair(text)
    only = [
        reading.alone(side, texts)
        for side, texts in enumerate((distiller.student_taps_in(phase), distiller.teacher_taps_in(phase)))
    ]
    return reading.binding(*only)


class _Reading:
    """Collects what one distiller reads in one phase.

    Args:
        distiller: the method.
        sides: the anatomies of student and teacher.
    """

    def __init__(self, distiller: Distiller, sides: tuple[Anatomy, Anatomy | None]) -> None:
        self.distiller = distiller
        self.sides = sides
        self.names: list[tuple[str, str]] = []
        self.points: tuple[dict[str, TapPoint], dict[str, TapPoint]] = ({}, {})
        self.aliases: tuple[dict[str, str], dict[str, str]] = ({}, {})

    def pair(self, text: str) -> None:
        """Resolve one tap on both sides."""
        resolved = [self._resolve(side, name) for side, name in enumerate(split_pair(text))]
        places = [_places(self._anatomy(side), points) for side, points in enumerate(resolved)]
        names = match_places(places[0], places[1], f"{self.distiller.name}: '{text}'")
        self.names += names
        for side in (0, 1):
            self.points[side].update({name: resolved[side][name] for name in dict.fromkeys(pair[side] for pair in names)})
            if len(resolved[side]) == 1:
                written = _names_of(self.distiller, text, side)
                self.aliases[side].update(dict.fromkeys(written, next(iter(resolved[side]))))

    def alone(self, side: int, texts: Sequence[str]) -> tuple[str, ...]:
        """Resolve taps on one side; returns their names."""
        names: dict[str, None] = {}
        for text in texts:
            resolved = self._resolve(side, text)
            names |= dict.fromkeys(resolved)
            self.points[side].update(resolved)
            if len(resolved) == 1:
                self.aliases[side].setdefault(text, next(iter(resolved)))
        return tuple(names)

    def binding(self, student_only: tuple[str, ...], teacher_only: tuple[str, ...]) -> TapBinding:
        """What was collected."""
        keys = tuple((_key(student, self.aliases[0]), _key(teacher, self.aliases[1])) for student, teacher in self.names)
        anatomy = self.sides[1]
        rectified = frozenset(
            name for name, point in self.points[1].items() if anatomy is not None and anatomy.rectified(point)
        )
        return TapBinding(keys, *self.points, *self.aliases, rectified, student_only, teacher_only)

    def _resolve(self, side: int, text: str) -> dict[str, TapPoint]:
        return self._anatomy(side).resolve(text)

    def _anatomy(self, side: int) -> Anatomy:
        anatomy = self.sides[side]
        if anatomy is None:
            raise SettingsError(f"The method '{self.distiller.name}' needs a teacher. Name one with --teacher.")
        return anatomy


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
