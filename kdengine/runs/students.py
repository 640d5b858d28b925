"""The students of a comparison: what tells the lanes of one from those of the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from kdengine.config.settings import WITHOUT_WEIGHTS, Settings, TrainSettings
from kdengine.config.specs import Spec
from kdengine.data.dataset import Data
from kdengine.errors import ModelError, SettingsError, counted
from kdengine.plugins.registry import Registry
from kdengine.runs.assignment import Assignment, assign, spec_of
from kdengine.runs.lane_specs import LaneSpec, check_label, with_plain
from kdengine.runs.past_weights import check_networks
from kdengine.runs.session import Session
from kdengine.runs.teachers import check_network

__all__ = ["StudentSpec", "Students", "assign_students", "check_students", "lanes_of_all", "name_of_all", "student_specs"]

Network = str | nn.Module
Students = Network | Sequence[Network] | Mapping[str, Network] | None
Weights = str | Path | Sequence[str | Path | None] | None


@dataclass(frozen=True)
class StudentSpec:
    """One student of a comparison.

    Attributes:
        network: its model spec, as settings name it.
        label: its name in tables and folders; empty for the only student of a comparison.
        weights: file or run folder whose weights it starts from, if given.
        role: the key of a network that was passed as a module: ``student``, ``student 2`` and so on.
        train: training settings of its lanes that are not those of the whole comparison.
    """

    network: str
    label: str = ""
    weights: str | None = None
    role: str = "student"
    train: Mapping[str, Any] = field(default_factory=dict)

    def settings_in(self, settings: Settings) -> Settings:
        """The settings of a comparison as those of one that has no other student.

        Args:
            settings: of the whole comparison.
        """
        changes: dict[str, Any] = {"student": self.network, "student_weights": self.weights}
        if self.train:
            train = {**settings.train.model_dump(), **self.train}
            changes["train"] = TrainSettings.checked(train, owner="train")
            changes |= {"teacher_train": settings.own_teacher_training} if settings.teacher else {}
        return settings.model_copy(update=changes)

    def modules_in(self, modules: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
        """The modules of a comparison with this student as the only one.

        Args:
            modules: by role.
        """
        teachers = {role: module for role, module in modules.items() if not role.startswith("student")}
        return {**teachers, **({"student": modules[self.role]} if self.role in modules else {})}

    def session_in(self, session: Session) -> Session:
        """The session of a comparison for this student alone: with the same data and teachers, so that these are shared."""
        return replace(session, settings=self.settings_in(session.settings), modules=self.modules_in(session.modules))

    def with_train_of(self, own: Settings, shared: Settings) -> StudentSpec:
        """This student with the training settings in which its own settings differ from the shared ones."""
        mine, theirs = (settings.train.model_dump(mode="json") for settings in (own, shared))
        return replace(self, train={name: value for name, value in mine.items() if value != theirs[name]})


def assign_students(
    teacher: Network | Sequence[Network] | None,
    students: Students,
    data: str | Data | None,
    weights: Weights = None,
    **settings: Any,
) -> tuple[Assignment, list[StudentSpec]]:
    """The assignment of a comparison, with the modules of all students, and these students.

    Args:
        teacher: a model spec or a module, if any; or several.
        students: a model spec or a module; or several, also label -> network.
        data: a data spec or a data set.
        weights: the weights that each student starts from, in their order.
        **settings: other arguments of :func:`kdengine.runs.assignment.assign`.

    Raises:
        KDError: lists every fault in the settings.
    """
    if "plugins" in settings:
        raise SettingsError("A comparison has no plugins: give its methods, methods=[...], and observers=[...] beside them.")
    networks, labels = _given(students)
    specs = student_specs([str(spec_of(network)) for network in networks], weights, labels)
    assignment = assign(teacher, networks[0], (), data, student_weights=specs[0].weights, **settings)
    specs[0] = replace(specs[0], weights=assignment.settings.student_weights)  # a recipe may name them
    named = {spec.role: network for spec, network in zip(specs, networks, strict=True) if isinstance(network, nn.Module)}
    return replace(assignment, modules={**assignment.modules, **named}), specs


def _given(students: Students) -> tuple[list[Network], Sequence[str] | None]:
    """The networks that a caller passed, and their labels if they were named."""
    listed: Sequence[Network | None]
    labels = None
    if students is None or isinstance(students, str | nn.Module):
        listed = [students]
    elif isinstance(students, Mapping):
        listed, labels = list(students.values()), list(students)
    else:
        listed = list(students) if isinstance(students, Iterable) else [students]
    known = [network for network in listed if network is not None]
    for network in known:
        check_network(network, "student")
    if not known:
        raise SettingsError("No student was given. Name a network to train.")
    return known, labels


def student_specs(networks: Sequence[str], weights: Weights = None, labels: Sequence[str] | None = None) -> list[StudentSpec]:
    """The students of a comparison, each with a label of its own if there are several.

    Args:
        networks: their model specs.
        weights: the weights that each starts from, in the same order; None or ``none`` for random ones.
        labels: their names in tables and folders; by default those of the networks.

    Raises:
        SettingsError: two lanes would be the same, a label cannot name a folder, or there are more weights than students.
    """
    paths = [weights] if weights is None or isinstance(weights, str | Path) else list(weights)
    files = [None if path in (None, WITHOUT_WEIGHTS) else str(path) for path in paths]
    if len(files) > len(networks):
        raise SettingsError(
            f"student_weights names {len(files)} files, but there {'are' if len(networks) > 1 else 'is'} "
            f"{counted(len(networks), 'student')}. Name the students, or leave weights out."
        )
    files += [None] * (len(networks) - len(files))
    if len(networks) == 1:
        return [StudentSpec(networks[0], weights=files[0])]
    pairs = [(network.removeprefix("timm:"), file) for network, file in zip(networks, files, strict=True)]
    named = [pair for pair in pairs if not pair[0].startswith("module:")]
    twice = next((pair[0] for pair in named if named.count(pair) > 1), None)
    if twice is not None:
        raise SettingsError(
            f"The student '{twice}' is named twice, with the same weights: the lanes of both would be the same. Name it once."
        )
    names = list(labels) if labels is not None else _labels(networks)
    for name in names:
        check_label(name, "a student")
    roles = ["student" if number == 0 else f"student {number + 1}" for number in range(len(networks))]
    return [StudentSpec(*facts) for facts in zip(networks, names, files, roles, strict=True)]


def lanes_of_all(students: Sequence[StudentSpec], lanes: Sequence[LaneSpec]) -> list[LaneSpec]:
    """The lanes of every student: all that are not of another one, and a plain lane each.

    Raises:
        SettingsError: a lane is of a student that is not compared, or the lanes of a student cannot be told apart.
    """
    labels = [student.label for student in students]
    strange = next((lane for lane in lanes if lane.student and lane.student not in labels), None)
    if strange is not None:
        raise SettingsError(
            f"The lane '{strange.label}' is of the student '{strange.student}', which is not compared. "
            + (f"Choose one of {', '.join(labels)}." if any(labels) else "Leave that out: there is only one student.")
        )
    return [
        replace(lane, student=label)
        for label in labels
        for lane in with_plain([lane for lane in lanes if lane.student in ("", label)])
    ]


def check_students(
    students: Sequence[StudentSpec], settings: Settings, modules: Mapping[str, nn.Module], registry: Registry
) -> None:
    """Reject unknown networks and missing weights of all students, before reading the data.

    Raises:
        ModelError: a network or a weights file does not exist.
    """
    for student in students:
        check_networks(student.settings_in(settings), student.modules_in(modules), registry)


def name_of_all(students: Sequence[StudentSpec]) -> str:
    """What the students are called together, in the name of a folder: ``resnet8``, ``resnet8-and-2-more``."""
    first = students[0].label or _plain_name(students[0].network)
    return first if len(students) == 1 else f"{first}-and-{len(students) - 1}-more"


def _plain_name(spec: str) -> str:
    """The name of a network as a part of the name of a folder."""
    return Spec.parse(spec, ModelError).name.replace("/", "-")


def _labels(networks: Sequence[str]) -> list[str]:
    """The name of each network; with its options where several have the same name, and with a number where that is no help."""
    names = [_plain_name(spec) for spec in networks]
    whole = [(spec.strip().partition(":")[2] or spec.strip()).replace("/", "-") for spec in networks]
    labels = [name if names.count(name) == 1 else text for name, text in zip(names, whole, strict=True)]
    uses = [labels[:place].count(label) for place, label in enumerate(labels)]
    return [f"{label}-{before + 1}" if before else label for label, before in zip(labels, uses, strict=True)]
