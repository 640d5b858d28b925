"""The teachers of a session: who they are, and whether each has weights of its own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from kdengine.config.settings import Settings
from kdengine.config.validation import shown
from kdengine.errors import ModelError
from kdengine.networks.network import Network
from kdengine.training.teacher import FrozenTeacher

__all__ = ["TEACHER_SEED", "Named", "Teacher", "check_network", "is_teacher", "named_teachers", "networks_given", "role_of"]

TEACHER_SEED = 1_000_003
"""Added to the seed of a teacher's weights, so that a teacher and student of the same architecture start differently."""


def role_of(number: int) -> str:
    """What the teacher of a number, from 0, is called: ``teacher``, ``teacher 2``, ``teacher 3`` ..."""
    return "teacher" if number == 0 else f"teacher {number + 1}"


def is_teacher(role: str) -> bool:
    """Whether a role is that of a teacher."""
    return re.fullmatch(r"teacher( \d+)?", role) is not None


@dataclass(frozen=True)
class Named:
    """A network as the settings name it.

    Attributes:
        role: ``student``, ``teacher``, or ``teacher 2`` and so on.
        spec: the network.
        weights: file or run folder with its weights, if given.
        repeats: how many teachers before it are of the same spec; it is added to the seed, so that they differ.
    """

    role: str
    spec: str
    weights: str | None = None
    repeats: int = 0

    @property
    def weights_setting(self) -> str:
        """The setting that names its weights."""
        return f"{self.role}_weights" if self.role in ("student", "teacher") else "further_teacher_weights"


def named_teachers(settings: Settings) -> Iterator[Named]:
    """All teachers of a run, in their order."""
    for number, (spec, weights) in enumerate(zip(settings.teachers, settings.weights_of_teachers, strict=True)):
        yield Named(role_of(number), spec, weights, settings.teachers[:number].count(spec))


@dataclass(frozen=True)
class Teacher:
    """A teacher that was built.

    Attributes:
        named: what the settings say about it.
        network: the network; it may still have random weights.
        frozen: runs that network.
        is_trained_first: whether it has no weights for this data.
    """

    named: Named
    network: Network
    frozen: FrozenTeacher
    is_trained_first: bool = False

    @property
    def role(self) -> str:
        """``teacher``, or ``teacher 2`` and so on."""
        return self.named.role


def check_network(network: object, role: str) -> None:
    """Refuse what is neither a spec nor a module, such as a state dict or a class.

    Raises:
        ModelError: says what to give.
    """
    if not (network is None or isinstance(network, str | nn.Module)):
        raise ModelError(
            f"{role} = {shown(network)}: give the name of a network or an nn.Module. A state dict is loaded into a module "
            "first, and a class or a function is called."
        )


def networks_given(teachers: str | nn.Module | Sequence[str | nn.Module | None] | None) -> Mapping[str, str | nn.Module]:
    """What a caller passed as teacher or teachers, by role; a place that is None is left out.

    Raises:
        ModelError: one of them is neither a spec nor a module.
    """
    given: Any = teachers
    single = not isinstance(given, Iterable) or isinstance(given, str | nn.Module | Mapping)
    listed: list[Any] = [given] if single else list(given)
    for network in listed:
        check_network(network, "teacher")
    return {role_of(number): network for number, network in enumerate(listed) if network is not None}
