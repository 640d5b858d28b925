"""The chain of networks from teacher to student that a method may request; each teaches the next."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from kdengine.errors import SettingsError
from kdengine.methods.curriculum import Curriculum
from kdengine.methods.distiller import Distiller
from kdengine.networks.network import LaneContext, Network
from kdengine.seeds import undisturbed
from kdengine.training.lane_module import LaneModule, ResolvedPhase
from kdengine.training.teacher import FrozenTeacher

__all__ = ["ChainStep", "TeacherQuery", "chain", "position", "queries"]


class TeacherQuery(NamedTuple):
    """A teacher forward that lanes may share.

    Attributes:
        teacher: the teacher.
        input_gradients: whether its trace can be differentiated with respect to the images.
        view: which view of the images it sees; 0 is the batch itself.
    """

    teacher: FrozenTeacher
    input_gradients: bool = False
    view: int = 0


@dataclass(frozen=True)
class ChainStep:
    """One network in the chain from teacher to student; usually the student is the only one.

    Attributes:
        student: the network being trained.
        teachers: the networks it learns from, if any.
        module: the network with its distillers.
        phases: its phases, the joint one last.
    """

    student: Network
    teachers: tuple[Network, ...]
    module: LaneModule
    phases: Sequence[ResolvedPhase]


def queries(teachers: Sequence[FrozenTeacher], phase: ResolvedPhase) -> list[list[TeacherQuery]]:
    """The teacher forwards that a phase needs: for each view of the images, one of each teacher."""
    if not phase.needs_teacher:
        return []
    views = range(phase.views if teachers else 0)
    return [[TeacherQuery(teacher, phase.input_gradients, view) for teacher in teachers] for view in views]


def chain(context: LaneContext, distillers: Mapping[str, Distiller]) -> list[tuple[LaneContext, Mapping[str, Distiller]]]:
    """The networks to train in turn, the student last; each learns from the previous one, with its own distillers.

    Raises:
        SettingsError: two methods ask for different routes, or a route has the wrong ends.
        ModelError: an intermediate network cannot be built.
    """
    taught: list[tuple[LaneContext, Mapping[str, Distiller]]] = []
    teachers = context.teachers
    for spec in _between(context, distillers):
        name = context.student.name if spec == "student" else spec
        network = Network.probed(name, context.new_network(spec), context.input_size, context.task)
        taught.append((replace(context, student=network, teachers=teachers), copy.deepcopy(distillers)))
        teachers = (network,)
    return [*taught, (replace(context, teachers=teachers), distillers)]


def _between(context: LaneContext, distillers: Mapping[str, Distiller]) -> Sequence[str]:
    if not context.teachers:
        return ()
    curricula = [key for key, distiller in distillers.items() if isinstance(distiller, Curriculum)]
    if curricula and len(context.teachers) > 1:
        raise SettingsError(
            f"{curricula[0]} leads from one teacher to the student, but this run has {len(context.teachers)} teachers. "
            "Name one of them."
        )
    ends = (context.teachers[0].name, context.student.name)
    with undisturbed():  # looking up networks may touch the process-wide warning filters
        routes = {
            key: tuple(distiller.route(*ends)) for key, distiller in distillers.items() if isinstance(distiller, Curriculum)
        }
    for key, route in routes.items():
        if len(route) < 2 or (route[0], route[-1]) != ends:
            raise SettingsError(f"{key}: the route must lead from '{ends[0]}' to '{ends[1]}', got {list(route)}.")
    detours = {key: route for key, route in routes.items() if len(route) > 2}
    if len(set(detours.values())) > 1:
        listed = "; ".join(f"{key} asks for {' -> '.join(route)}" for key, route in detours.items())
        raise SettingsError(f"The methods of one lane must share one route: {listed}. Use one of them at a time.")
    return next(iter(detours.values()), ends)[1:-1]


def position(chain: Sequence[ChainStep], number: int) -> dict[str, Any]:
    """The network currently being trained; empty if the chain has only one."""
    return {} if len(chain) == 1 else {"chain_step": number + 1, "network": chain[number].student.name}
