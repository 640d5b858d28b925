"""The networks between teacher and student, where a method asks for some: each teaches the next."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from kdengine.errors import SettingsError
from kdengine.methods.curriculum import Curriculum
from kdengine.methods.distiller import Distiller
from kdengine.networks.network import LaneContext, Network
from kdengine.seeds import undisturbed
from kdengine.training.lane_module import LaneModule, ResolvedPhase
from kdengine.training.teacher import FrozenTeacher

__all__ = ["ChainStep", "TeacherQuery", "chain"]


class TeacherQuery(NamedTuple):
    """A pass of a teacher that lanes share."""

    teacher: FrozenTeacher
    input_gradients: bool


@dataclass(frozen=True)
class ChainStep:
    """One network on the way from the teacher to the student, most often the student itself.

    Attributes:
        student: the network.
        teacher: what it learns from, if anything.
        module: the network with its distillers.
        phases: its phases, the joint one last.
    """

    student: Network
    teacher: Network | None
    module: LaneModule
    phases: Sequence[ResolvedPhase]


def chain(context: LaneContext, distillers: Mapping[str, Distiller]) -> list[tuple[LaneContext, Mapping[str, Distiller]]]:
    """What is taught in turn, the student last: each network learns from the one before it, with distillers of its own.

    Raises:
        SettingsError: two methods want different networks on the way, or one does not keep to the ends.
        ModelError: a network on the way cannot be made.
    """
    taught: list[tuple[LaneContext, Mapping[str, Distiller]]] = []
    teacher = context.teacher
    for spec in _between(context, distillers):
        name = context.student.name if spec == "student" else spec
        network = Network.probed(name, context.new_network(spec), context.input_size, context.task)
        taught.append((replace(context, student=network, teacher=teacher), copy.deepcopy(distillers)))
        teacher = network
    return [*taught, (replace(context, teacher=teacher), distillers)]


def _between(context: LaneContext, distillers: Mapping[str, Distiller]) -> Sequence[str]:
    if context.teacher is None:
        return ()
    ends = (context.teacher.name, context.student.name)
    with undisturbed():  # a method may look networks up that warn
        routes = {
            key: tuple(distiller.route(*ends)) for key, distiller in distillers.items() if isinstance(distiller, Curriculum)
        }
    for key, route in routes.items():
        if len(route) < 2 or (route[0], route[-1]) != ends:
            raise SettingsError(f"{key}: a route must lead from '{ends[0]}' to '{ends[1]}', got {list(route)}.")
    detours = {key: route for key, route in routes.items() if len(route) > 2}
    if len(set(detours.values())) > 1:
        wishes = "; ".join(f"{key} wants {' -> '.join(route)}" for key, route in detours.items())
        raise SettingsError(f"The methods of one run cannot take different ways: {wishes}. Use one of them at a time.")
    return next(iter(detours.values()), ends)[1:-1]
