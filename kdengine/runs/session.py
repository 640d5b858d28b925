"""The session: data, device and teachers that the lanes of a run share; it also creates the lanes."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from kdengine.config.factories import NO_FACTORIES, Factories
from kdengine.config.settings import Settings, TrainSettings
from kdengine.data.datamodule import DataModule
from kdengine.data.dataset import Data
from kdengine.errors import ModelError, TapError
from kdengine.methods.distiller import Distiller
from kdengine.networks.factory import NetworkFactory
from kdengine.networks.fingerprint import fingerprint
from kdengine.networks.fitting import Head, Part
from kdengine.networks.inputs import Preprocessed
from kdengine.networks.models import ModelSource
from kdengine.networks.network import LaneContext, Network
from kdengine.networks.own_module import check_apart, check_module
from kdengine.networks.preprocess import preprocess_for
from kdengine.networks.weights import fingerprint_of_file
from kdengine.plugins.hooks import Hooks
from kdengine.plugins.registry import Registry
from kdengine.runs.past_weights import check_networks, input_of_run, load_student, load_teacher
from kdengine.runs.recorder import FolderRecorder, StateGiver
from kdengine.runs.remarks import remark_on
from kdengine.runs.run import Run
from kdengine.runs.source import Loaders, batches_of, check_even, check_targets, suited, warn_of_data
from kdengine.runs.teachers import TEACHER_SEED, Named, Teacher, is_teacher, named_teachers
from kdengine.storage.runfolder import RunFolder
from kdengine.tasks.task import Task
from kdengine.training.build import make_lane
from kdengine.training.compiling import check_graphs
from kdengine.training.defaults import Followed, follow
from kdengine.training.lane import Lane
from kdengine.training.optimizer import check_optimizer
from kdengine.training.runtime import Runtime
from kdengine.training.teacher import FrozenTeacher

__all__ = ["Session"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Session:
    """Data, device and teachers, checked and ready; creates lanes for them.

    Attributes:
        settings: settings of the run; the seed determines the initial weights of networks.
        registry: finds networks.
        runtime: device and precision.
        data: batches for training and evaluation.
        task: what the student is trained for.
        modules: ``"student"``, ``"teacher"``, ``"teacher 2"`` and so on, if passed as modules.
        observers: objects with hooks.
        factories: what makes optimizer and scheduler of the students, if the caller passed that.
        teachers: the teachers, if any; they may still have random weights.
    """

    settings: Settings
    registry: Registry
    runtime: Runtime
    data: DataModule
    task: Task
    modules: Mapping[str, nn.Module] = field(default_factory=dict)
    observers: Sequence[object] = ()
    factories: Factories = NO_FACTORIES
    teachers: tuple[Teacher, ...] = ()

    @classmethod
    def open(
        cls,
        settings: Settings,
        registry: Registry,
        *,
        modules: Mapping[str, nn.Module] | None = None,
        data: Data | None = None,
        loaders: Loaders | None = None,
        observers: Iterable[object] = (),
        factories: Factories = NO_FACTORIES,
        alone: bool = False,
    ) -> Session:
        """Check device and networks, load the data, and build the teachers.

        Args:
            settings: settings of the run.
            registry: finds networks, data and tasks.
            modules: ``"student"``, ``"teacher"``, ``"teacher 2"`` and so on; replace the networks named in the settings.
            data: replaces the data set named in the settings.
            loaders: the user's own loaders.
            observers: objects with hooks.
            factories: what makes optimizer and scheduler of the students.
            alone: run in this process only, even if several were started.

        Raises:
            KDError: for anything the user can fix.
        """
        train, modules, loaders = settings.train, dict(modules or {}), loaders or Loaders()
        for own in (train, *([settings.teacher_training] if settings.teacher else [])):
            check_optimizer(own)
        runtime = Runtime(train.device, train.precision, train.channels_last, alone)
        check_graphs(train, runtime.device)
        check_networks(settings, modules, registry)
        batches = batches_of(settings, registry, runtime, modules, data, loaders)
        check_even(batches, runtime)
        if not alone:  # a teacher that is trained first need not repeat it
            warn_of_data(settings, batches, loaders, runtime.processes)
        if runtime.is_main and not alone:
            remark_on(settings, runtime.device.type)
        task = _task_of(settings, registry, batches)
        check_targets(batches, task)
        shared = suited(batches, settings, task).shared(runtime.rank, runtime.processes)
        return cls(settings, registry, runtime, shared, task, modules, tuple(observers), factories)._with_teachers()

    def for_seed(self, seed: int) -> Session:
        """This session with another seed: different students and batches, the same teachers."""
        if seed == self.settings.seed:
            return self
        settings, data = self.settings.model_copy(update={"seed": seed}), self.data
        if data.dataset is None:
            return replace(self, settings=settings, data=data.with_order(seed))
        reseeded = DataModule.of_data(data.dataset, settings, self.runtime.device, self.runtime.processes)
        data = suited(reseeded, settings, self.task).shared(self.runtime.rank, self.runtime.processes)
        return replace(self, settings=settings, data=data)

    def student(self) -> Network:
        """The student: the module passed in, or a new network initialised from the seed; with its weights, if given.

        Raises:
            KDError: it cannot be built for the data, or the weights do not fit.
        """
        network, head = self._student()
        check_apart(network.module, {teacher.role: teacher.network.module for teacher in self.teachers})
        if self.settings.student_weights is not None:
            log.info("%s starts from '%s': loaded %s", network.name, self.settings.student_weights, head or "all weights")
        return network

    def twin(self) -> Network:
        """A copy of the student with the initial weights of :meth:`student`."""
        copied = {role: copy.deepcopy(module) for role, module in self.modules.items() if role == "student"}
        return replace(self, modules=copied)._student()[0]

    def lane(self, name: str, student: Network, distillers: Mapping[str, Distiller], settings: Settings | None = None) -> Lane:
        """Create a lane for a student, ready to train.

        Args:
            name: name of the lane.
            student: the network to train.
            distillers: id -> distiller.
            settings: settings of the lane; those of the session by default.

        Raises:
            KDError: the methods are incompatible with the networks or with each other.
        """
        data, settings = self.data, settings or self.settings
        sources: dict[str, str | nn.Module] = {"student": self.modules.get("student", settings.student)}
        preprocess = {"student": student.preprocess}
        teachers = self.teachers if settings.teacher is not None else ()
        for teacher in teachers:
            sources[teacher.role] = self.modules.get(teacher.role, teacher.named.spec)
            preprocess[teacher.role] = teacher.network.preprocess
        task = self.task if settings.train == self.settings.train else _task_of(settings, self.registry, data)
        options = task.network_options()
        factory = NetworkFactory(sources, options, data.images, self.registry, settings.seed + 1, preprocess)
        networks = tuple(teacher.network for teacher in teachers)
        sizes = data.num_samples, data.input_size
        context = LaneContext(student, networks, task, *sizes, factory, self.factories, data.targets, data.lacks)
        frozen = [teacher.frozen for teacher in teachers]
        return make_lane(name, context, distillers, settings, self.runtime, len(data.train), frozen)

    def run(self, settings: Settings, lane: Lane, folder: RunFolder, advice: str = "") -> Run:
        """Create the run of a lane with the hooks of its observers; only in the main process are they the user's.

        Args:
            settings: settings of the lane, as resolved.
            lane: the lane.
            folder: the run folder.
            advice: custom resume instructions.
        """
        observers = [*self.observers, FolderRecorder(folder)] if self.runtime.is_main else [StateGiver()]
        hooks: Hooks = self.registry.hooks(observers)
        return Run(settings, lane, self.data.dataset, self.runtime, folder, hooks, advice)

    def facts(self, teacher: Mapping[str, Any] | None) -> dict[str, Any]:
        """Facts about machine, task, data and teachers for the manifest.

        Args:
            teacher: facts about the teacher or the ensemble of teachers, if any.
        """
        known: dict[str, Any] = {"task": self.task.scoring.to_dict(), "data": self.data.describe()}
        chance = self.task.chance(self.data.test_targets)
        known |= {} if chance is None else {"chance": chance.to_dict()}
        path = self.settings.student_weights
        weights = {} if path is None else {"student_weights": {"path": path, "fingerprint": fingerprint_of_file(path)}}
        module = self.modules.get("student")
        known |= {} if module is None else {"student_module": fingerprint(module)}
        return {**self.runtime.describe(), **known, **weights, **({"teacher": teacher} if teacher else {})}

    def followed(self, network: Network, role: str, settings: TrainSettings) -> Followed:
        """The training settings of a network, with what they leave open chosen for it.

        Args:
            network: the network to train.
            role: ``"student"``, ``"teacher"``, ``"teacher 2"`` and so on.
            settings: as given.
        """
        given = role == "student" and self.settings.student_weights is not None
        named = role not in self.modules and self._model_source(network.name, self.data.input_size).is_pretrained
        return follow(network.module, settings, attends=network.anatomy.probe.attends, pretrained=given or named)

    def _with_teachers(self) -> Session:
        """This session with its teachers built; weights are loaded where a file was given."""
        return replace(self, teachers=tuple(map(self._teacher, named_teachers(self.settings))))

    def _teacher(self, named: Named) -> Teacher:
        network = self._network(named.spec, named.role, self.settings.seed + TEACHER_SEED + named.repeats, named.weights)
        network.announce()
        if named.weights is not None:
            load_teacher(network, named.weights, self.data.dataset, self.settings.data)
        has_weights = named.role in self.modules or named.weights is not None
        trained = not has_weights and not self._model_source(network.name, self.data.input_size).brings_weights
        frozen = FrozenTeacher(network.preprocessed, self.runtime, self.settings.train)
        return Teacher(named, network, frozen, trained)

    def _network(self, name: str, role: str, seed: int, weights: str | None) -> Network:
        module = self.modules.get(role)
        if module is None and name.startswith("module:"):
            raise ModelError(f"'{name}' was passed as a module; only a run of networks given by name can be repeated.")
        side = "teacher" if is_teacher(role) else "student"
        wanted = {"teacher": self.settings.teacher_input, "student": self.settings.student_input}[side]
        trained_on = None if weights is None else input_of_run(weights, self.task)
        preprocess = preprocess_for(name if module is None else module, self.data.images, wanted, f"{side}_input", trained_on)
        if module is not None:
            check_module(module, role, preprocess.wanted.size)
        made = self._model_source(name, preprocess.wanted.size).create(seed) if module is None else module
        try:
            return Network.probed(name, Preprocessed(preprocess, made), self.data.input_size, self.task)
        except TapError as error:
            raise TapError(f"{error} Or set {side}_input.size: images are then resized for this network.") from error

    def _student(self) -> tuple[Network, Head | Part | None]:
        """The student, and the head that its weights lack, or the part that they fill, if not all."""
        weights = self.settings.student_weights
        network = self._network(self.settings.student, "student", self.settings.seed, weights)
        return network, None if weights is None else load_student(network, weights, self.data.dataset)

    def _model_source(self, name: str, size: tuple[int, int, int]) -> ModelSource:
        return ModelSource(name, self.task.network_options(), size, self.registry)


def _task_of(settings: Settings, registry: Registry, data: DataModule) -> Task:
    """The task of a run or of a lane, which may weigh classes and smooth labels in its own way."""
    return registry.task(settings.task or data.task).of(data, settings.train)
