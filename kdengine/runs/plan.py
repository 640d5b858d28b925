"""The plan of a run: everything known before anything is trained or written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from kdengine.config.settings import Settings
from kdengine.errors import SettingsError
from kdengine.methods.distiller import Distiller
from kdengine.methods.pairing import TapBinding
from kdengine.networks.flops import count_flops
from kdengine.networks.models import count_parameters
from kdengine.networks.network import Network
from kdengine.plugins.selection import resolved
from kdengine.runs.following import Training
from kdengine.runs.session import Session
from kdengine.runs.store_forecast import Forecast, read_of_teacher
from kdengine.runs.teacher_store import TeacherStore
from kdengine.runs.teachers import role_of
from kdengine.storage.runfolder import RunFolder
from kdengine.taps.anatomy import TapPoint
from kdengine.training.chain import ChainStep
from kdengine.training.lane import Lane
from kdengine.training.lane_module import COPY, ResolvedPhase
from kdengine.training.memory import bytes_of

__all__ = ["Plan"]


@dataclass(frozen=True)
class Plan:
    """All parts of a run, built and checked.

    Attributes:
        settings: as resolved.
        folder: the run folder; not created yet.
        session: data, device and teacher.
        student: the network to train.
        lane: the student with its methods and phases.
        training: how its networks are trained, and why.
        store: what its teachers showed before, if that is kept.
    """

    settings: Settings
    folder: RunFolder
    session: Session
    student: Network
    lane: Lane
    training: Training
    store: TeacherStore | None = None

    @classmethod
    def of(cls, session: Session, distillers: Mapping[str, Distiller], folder: RunFolder, label: str) -> Plan:
        """Build and check a run without training or writing anything.

        Args:
            session: data, device and teacher.
            distillers: id -> distiller.
            folder: the run folder.
            label: name of its lane.

        Raises:
            KDError: for anything the user can fix.
        """
        if session.task.measured_by_teacher and not distillers:
            raise SettingsError(
                f"The task '{session.task.name}' has no targets to train by. Name a teacher and a method that learns from it: "
                "kdengine run --plugin foundation --teacher timm:NAME@pretrained=true."
            )
        runtime = session.runtime
        path = runtime.same(folder.path)
        student = session.student()
        student.announce()
        training = Training.of(session, student)
        training.announce()
        settings = training.into(session.settings)
        lane = session.lane(label, student, distillers, settings)
        settings = resolved(settings, distillers, own_loaders=session.data.own_loaders)
        store = TeacherStore.of(session) if lane.needs_teacher else None
        return cls(settings, folder if runtime.is_main else RunFolder(path), session, student, lane, training, store)

    def describe(self) -> dict[str, Any]:
        """Networks, methods with their connectors, and phases with their taps and shapes, as plain data."""
        networks = {"student": self.student, **{teacher.role: teacher.network for teacher in self.session.teachers}}
        return {
            **{role: _network(network) for role, network in networks.items()},
            "training": self.training.describe(),
            "methods": [_method(_shown(name), method) for name, method in self.lane.module.methods.items()],
            "phases": [
                {**({"network": step.student.name} if len(self.lane.chain) > 1 else {}), **self._phase(step, phase)}
                for step in self.lane.chain
                for phase in step.phases
            ],
            "memory": self._memory(),
            **self._forecast(),
            "data": self.session.data.describe(),
            "runtime": self.session.runtime.describe(),
            "folder": str(self.folder.path),
        }

    def _phase(self, step: ChainStep, phase: ResolvedPhase) -> dict[str, Any]:
        forwards = {"student": self._forward(step.student, phase.student_points, phase.task)}
        for number, teacher in enumerate(step.teachers if phase.needs_teacher else ()):
            points = phase.teacher_points(number)
            forwards[role_of(number)] = self._forward(teacher, points, "logits" in points)
        return {
            "name": phase.name,
            "epochs": phase.epochs,
            "task_weight": phase.task_weight if phase.task else 0.0,
            "forwards": forwards,
            "taps": [
                _tap(step, part, method, *names)
                for method, binding in phase.bindings.items()
                for part in (binding, *binding.others)
                for names in part.names
            ],
        }

    def _forward(self, network: Network, points: Mapping[str, TapPoint], whole: bool) -> dict[str, Any]:
        """How deep a network runs, and the FLOPs per image of that part and of the whole network."""
        size = network.input_size
        whole_flops = count_flops(network.module, size)
        if whole or not points:
            return {"until": None, "flops": whole_flops, "whole_flops": whole_flops}
        last = max(points.values(), key=network.anatomy.when)
        return {"until": str(last), "flops": count_flops(network.module, size, points), "whole_flops": whole_flops}

    def _forecast(self) -> dict[str, Any]:
        """What the teacher store will take up, if there is one."""
        if self.store is None:
            return {}
        return {"teacher_store": Forecast.of(self.store, *read_of_teacher(self.lane)).describe()}

    def _memory(self) -> dict[str, int]:
        """Bytes that the lane holds between batches, and the most that taps hold per image."""
        captured = [_captured(step, phase) for step in self.lane.chain for phase in step.phases]
        return {"lane": bytes_of(self.lane), "taps_per_image": max(captured)}


def _network(network: Network) -> dict[str, Any]:
    """Describe a network; its normalisation is included only if it differs from the data's."""
    received = network.preprocess.wanted.describe()
    return {
        "name": network.name,
        "parameters": network.anatomy.parameters,
        "stages": network.anatomy.num_stages,
        "input": received if network.preprocess.normalises else {"size": received["size"]},
    }


def _shown(key: str) -> str:
    """The id of a method; of a copy that learns from a further teacher, with that: ``fitnet, teacher 2``."""
    name, _, number = key.partition(COPY)
    return f"{name}, teacher {number}" if number else name


def _method(name: str, method: Distiller) -> dict[str, Any]:
    """Describe a method and its connectors, which are trained with the student and not deployed."""
    connectors = [
        {"name": path, "kind": type(module).__name__, "parameters": count_parameters(module)}
        for path, module in _parts(method)
        if count_parameters(module)
    ]
    return {"name": name, "connector_parameters": count_parameters(method), "connectors": connectors}


def _parts(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The submodules of a module, descending into containers."""
    for name, part in module.named_children():
        if isinstance(part, nn.ModuleList | nn.ModuleDict | nn.Sequential):
            yield from _parts(part, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", part


def _captured(step: ChainStep, phase: ResolvedPhase) -> int:
    """Bytes that the taps record per image, in float32."""
    taught = ((teacher, phase.teacher_points(number)) for number, teacher in enumerate(step.teachers))
    sides = ((step.student, phase.student_points), *taught)
    shapes = [network.anatomy.tensor(point).shape[1:] for network, points in sides for point in points.values()]
    return 4 * sum(shape.numel() for shape in shapes)


def _tap(step: ChainStep, binding: TapBinding, method: str, student: str, teacher: str) -> dict[str, Any]:
    student, teacher = (name.removeprefix("=") for name in (student, teacher))
    here, there = binding.student[student], binding.teacher[teacher]
    sides = (("student", step.student, student, here), ("teacher", step.teachers[binding.number], teacher, there))
    of_several = {"of": role_of(binding.number)} if len(step.teachers) > 1 else {}
    description: dict[str, Any] = {"method": _shown(method), **of_several}
    for side, network, name, point in sides:
        description |= {
            side: name,
            f"{side}_place": str(point),
            f"{side}_shape": list(network.anatomy.tensor(point).shape[1:]),
            f"{side}_layout": point.layout.kind,
            f"{side}_cloned": point.overwritten,
        }
    return description
