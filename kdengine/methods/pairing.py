"""From the taps that a distiller names to places in both networks, and to the trace that it is handed."""

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
    """What one distiller reads in one training phase.

    Attributes:
        names: for each pair of taps, its name in the student's and in the teacher's trace, with ``=`` before it where
            the distiller means another place by the name.
        student: the student's points by name.
        teacher: the teacher's points by name.
        student_aliases: further names under which the distiller may ask for the student's taps.
        teacher_aliases: the same for the teacher's.
        rectified: those of the teacher's names whose tensor comes straight out of a ReLU.
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
    """Resolve the distiller's taps of a phase on both networks; None where it is silent.

    A tap that the user put in place of a declared one is found under the declared name too, so that ``forward`` need
    not know of it.

    Raises:
        TapError: a tap names nothing, or names different numbers of places that cannot be matched.
    """
    taps = distiller.taps_in(phase)
    if taps is None:
        return None
    names: list[tuple[str, str]] = []
    points: tuple[dict[str, TapPoint], dict[str, TapPoint]] = ({}, {})
    aliases: tuple[dict[str, str], dict[str, str]] = ({}, {})
    for text in taps:
        found = [anatomy.resolve(name) for anatomy, name in zip((student, teacher), split_pair(text), strict=True)]
        names += match_places(_places(student, found[0]), _places(teacher, found[1]), f"{distiller.name}: '{text}'")
        for side in (0, 1):
            points[side].update(found[side])
            if len(found[side]) == 1:
                aliases[side].update(dict.fromkeys(_sayings(distiller, text, side), next(iter(found[side]))))
    used = [{name: side[name] for name in dict.fromkeys(column)} for side, column in zip(points, _columns(names), strict=True)]
    keys = tuple((_key(student, aliases[0]), _key(teacher, aliases[1])) for student, teacher in names)
    rectified = frozenset(name for name, point in used[1].items() if teacher.rectified(point))
    return TapBinding(keys, used[0], used[1], *aliases, rectified)


def _sayings(distiller: Distiller, text: str, side: int) -> list[str]:
    """What the distiller may call a tap: as it is written, unless its own taps mean another by that, and as it was declared."""
    given = distiller.options.taps or ()
    if len(given) != len(distiller.taps):
        return [split_pair(text)[side]]
    declared = [split_pair(said)[side] for said in distiller.taps]
    mine = [said for said, tap in zip(declared, given, strict=True) if tap == text]
    written = split_pair(text)[side]
    return mine if mine and written in declared else [written, *mine]


def _key(name: str, aliases: dict[str, str]) -> str:
    """The name of a point in the distiller's trace; ``=name`` where the distiller means another point by the name."""
    if aliases.get(name, name) == name:
        return name
    aliases[f"={name}"] = name
    return f"={name}"


def _columns(names: Sequence[tuple[str, str]]) -> tuple[list[str], list[str]]:
    return [student for student, _ in names], [teacher for _, teacher in names]


def match_places(student: Sequence[Place], teacher: Sequence[Place], what: str) -> list[tuple[str, str]]:
    """Pair two lists, each shallow to deep: one to one, or by size and relative depth where one is longer.

    Args:
        student: name of each place and the side of its map.
        teacher: the same.
        what: names the taps in errors.

    Raises:
        TapError: one side has nothing.
    """
    if not student or not teacher:
        side = "the student" if not student else "the teacher"
        raise TapError(f"{what} finds nothing in {side}: it has no such stages. Name its taps as 'STUDENT=TEACHER'.")
    sides = [side for _, side in student], [side for _, side in teacher]
    if len(student) <= len(teacher):
        return [(name, teacher[met][0]) for (name, _), met in zip(student, match_stages(*sides), strict=True)]
    return [(student[met][0], name) for (name, _), met in zip(teacher, match_stages(*reversed(sides)), strict=True)]


def _places(anatomy: Anatomy, points: Mapping[str, TapPoint]) -> list[Place]:
    return [(name, _side(anatomy.tensor(point))) for name, point in points.items()]


def _side(tensor: Tensor) -> float:
    """Side of a map [B, C, H, W], the geometric mean of height and width; 1 for anything else."""
    return math.sqrt(tensor.shape[2] * tensor.shape[3]) if tensor.ndim == 4 else 1.0
