"""The session: data, device and teacher that the lanes of a run share; it also creates the lanes."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from kdengine.config.factories import NO_FACTORIES, Factories
from kdengine.config.settings import Settings, TrainSettings
from kdengine.data.datamodule import DataModule
from kdengine.data.dataset import Data
from kdengine.errors import ModelError
from kdengine.methods.distiller import Distiller
from kdengine.networks.factory import NetworkFactory
from kdengine.networks.fingerprint import fingerprint
from kdengine.networks.flops import count_flops
from kdengine.networks.inputs import Preprocessed
from kdengine.networks.models import ModelSource, count_parameters
from kdengine.networks.network import LaneContext, Network
from kdengine.networks.preprocess import preprocess_for
from kdengine.networks.weights import Head, fingerprint_of_file
from kdengine.plugins.hooks import Hooks
from kdengine.plugins.registry import Registry
from kdengine.runs.past_weights import check_networks, input_of_run, load_student, load_teacher
from kdengine.runs.recorder import FolderRecorder
from kdengine.runs.remarks import remark_on
from kdengine.runs.run import Run
from kdengine.runs.source import Loaders, batches_of, suited, warn_of_data
from kdengine.runs.teacher_cache import CachedTeacher
from kdengine.storage.runfolder import RunFolder
from kdengine.tasks.task import Task
from kdengine.training.build import make_lane
from kdengine.training.defaults import Followed, follow
from kdengine.training.evaluation import evaluate
from kdengine.training.lane import Lane
from kdengine.training.optimizer import check_optimizer
from kdengine.training.runtime import Runtime
from kdengine.training.teacher import FrozenTeacher

__all__ = ["Session"]

log = logging.getLogger(__name__)
TEACHER_SEED = 1_000_003
"""Added to the seed of the teacher's weights, so that a teacher and student of the same architecture start differently."""


@dataclass(frozen=True)
class Session:
    """Data, device and teacher, checked and ready; creates lanes for them.

    Attributes:
        settings: settings of the run; the seed determines the initial weights of networks.
        registry: finds networks.
        runtime: device and precision.
        data: batches for training and evaluation.
        task: what the student is trained for.
        modules: ``"student"`` and ``"teacher"``, if passed as modules.
        observers: objects with hooks.
        factories: what makes optimizer and scheduler of the students, if the caller passed that.
        teacher_network: the teacher, if any; it may still have random weights.
        teacher: runs that network, frozen.
    """

    settings: Settings
    registry: Registry
    runtime: Runtime
    data: DataModule
    task: Task
    modules: Mapping[str, nn.Module] = field(default_factory=dict)
    observers: Sequence[object] = ()
    factories: Factories = NO_FACTORIES
    teacher_network: Network | None = None
    teacher: FrozenTeacher | None = None

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
        """Check device and networks, load the data, and build the teacher.

        Args:
            settings: settings of the run.
            registry: finds networks, data and tasks.
            modules: ``"student"`` and ``"teacher"``; replace the networks named in the settings.
            data: replaces the data set named in the settings.
            loaders: the user's own loaders.
            observers: objects with hooks.
            factories: what makes optimizer and scheduler of the students.
            alone: run in this process only, even if several were started.

        Raises:
            KDError: for anything the user can fix.
        """
        train, modules = settings.train, dict(modules or {})
        for own in (train, *([settings.teacher_training] if settings.teacher else [])):
            check_optimizer(own)
        runtime = Runtime(train.device, train.precision, train.channels_last, alone)
        check_networks(settings, modules, registry)
        batches = batches_of(settings, registry, runtime, modules, data, loaders or Loaders())
        if not alone:  # a teacher that is trained first need not repeat it
            warn_of_data(settings, batches)
        if runtime.is_main and not alone:
            remark_on(settings, runtime.device.type)
        task = registry.task(settings.task or batches.task).of(batches, train)
        shared = suited(batches, settings, task).shared(runtime.rank, runtime.processes)
        return cls(settings, registry, runtime, shared, task, modules, tuple(observers), factories)._with_teacher()

    def for_seed(self, seed: int) -> Session:
        """This session with another seed: different students and batches, the same teacher."""
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
        if self.settings.student_weights is not None:
            but = f" but the head '{head.path}' ({head.outputs_before} -> {head.outputs} classes)" if head else ""
            log.info("%s starts from '%s': loaded all%s", network.name, self.settings.student_weights, but or " weights")
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
        teacher = self.teacher_network if settings.teacher is not None else None
        if teacher is not None and settings.teacher is not None:
            sources["teacher"] = self.modules.get("teacher", settings.teacher)
            preprocess["teacher"] = teacher.preprocess
        options = self.task.network_options()
        factory = NetworkFactory(sources, options, data.images, self.registry, settings.seed + 1, preprocess)
        networks = () if teacher is None else (teacher,)
        sizes = data.num_samples, data.input_size
        context = LaneContext(student, networks, self.task, *sizes, factory, self.factories, data.targets, data.lacks)
        frozen = (self.teacher,) if teacher is not None and self.teacher is not None else ()
        return make_lane(name, context, distillers, settings, self.runtime, len(data.train), frozen)

    def run(self, settings: Settings, lane: Lane, folder: RunFolder, advice: str = "") -> Run:
        """Create the run of a lane with the hooks of its observers; only the main process has observers.

        Args:
            settings: settings of the lane, as resolved.
            lane: the lane.
            folder: the run folder.
            advice: custom resume instructions.
        """
        observers = [*self.observers, FolderRecorder(folder)] if self.runtime.is_main else []
        hooks: Hooks = self.registry.hooks(observers)
        return Run(settings, lane, self.data.dataset, self.runtime, folder, hooks, advice)

    def facts(self, teacher: Mapping[str, Any] | None) -> dict[str, Any]:
        """Facts about machine, task, data and teacher for the manifest.

        Args:
            teacher: facts about the teacher, if any.
        """
        known: dict[str, Any] = {"task": self.task.scoring.to_dict(), "data": self.data.describe()}
        chance = self.task.chance(self.data.test_targets)
        known |= {} if chance is None else {"chance": chance.to_dict()}
        path = self.settings.student_weights
        weights = {} if path is None else {"student_weights": {"path": path, "fingerprint": fingerprint_of_file(path)}}
        return {**self.runtime.describe(), **known, **weights, **({"teacher": teacher} if teacher else {})}

    @property
    def trains_teacher(self) -> bool:
        """Whether the teacher has no weights for this data, so that it is trained before it teaches."""
        if self.teacher_network is None or "teacher" in self.modules or self.settings.teacher_weights is not None:
            return False
        return not self._model_source(self.teacher_network.name, self.data.input_size).brings_weights

    def followed(self, network: Network, role: str, settings: TrainSettings) -> Followed:
        """The training settings of a network, with what they leave open chosen for it.

        Args:
            network: the network to train.
            role: ``"student"`` or ``"teacher"``.
            settings: as given.
        """
        given = role == "student" and self.settings.student_weights is not None
        named = role not in self.modules and self._model_source(network.name, self.data.input_size).is_pretrained
        return follow(network.module, settings, attends=network.anatomy.probe.attends, pretrained=given or named)

    def ready_teacher(self, needed: bool, train: Callable[[Settings, Path], None]) -> dict[str, Any] | None:
        """Train or load the teacher if it has no weights, evaluate it, and return facts about it.

        Args:
            needed: whether any lane learns from it.
            train: trains a network with the given settings into a folder.

        Raises:
            ModelError: it has no weights and cannot be trained here.
        """
        network = self.teacher_network
        if network is None:
            return None
        best = f"best_{self.task.scoring.headline.name}"
        facts: dict[str, Any] = {self.task.scoring.headline.name: None, best: None}
        if not self.trains_teacher:
            if self.data.test is not None:
                log.info("Evaluating the teacher %s", network.name)
                facts = dict(evaluate(network.preprocessed, self.data.test, self.task, self.runtime))
                facts[best] = facts[self.task.scoring.headline.name]
        elif needed:
            facts = dict(self._cached_teacher(network, train))
        else:
            log.info("Not training the teacher %s: no lane learns from its weights", network.name)
        sizes = {"parameters": count_parameters(network.module), "flops": count_flops(network.module, network.input_size)}
        identity = {"fingerprint": fingerprint(network.module), "input": network.preprocess.wanted.describe()}
        return {"name": network.name, **facts, **sizes, **identity}

    def _with_teacher(self) -> Session:
        """This session with its teacher built; weights are loaded if a file was given."""
        name = self.settings.teacher
        if name is None:
            return self
        network = self._network(name, "teacher", self.settings.seed + TEACHER_SEED)
        network.announce()
        if self.settings.teacher_weights is not None:
            load_teacher(network, self.settings.teacher_weights, self.data.dataset, self.settings.data)
        return replace(
            self,
            teacher_network=network,
            teacher=FrozenTeacher(network.preprocessed, self.runtime, self.settings.train.compile),
        )

    def _cached_teacher(self, teacher: Network, train: Callable[[Settings, Path], None]) -> Mapping[str, Any]:
        if self.data.dataset is None:
            raise ModelError(
                f"The teacher '{teacher.name}' has no weights, and it cannot be trained automatically with your own loaders. "
                "Give teacher_weights, or a trained module."
            )
        ours = self.settings
        own = {"seed": ours.seed, "train": ours.teacher_training, "student_input": ours.teacher_input, "task": ours.task}
        settings = Settings(student=teacher.name, data=self.data.dataset.name, **own)
        followed = settings.model_copy(update={"train": self.followed(teacher, "teacher", settings.train).settings})
        cached = CachedTeacher(followed, self.data.dataset, self.runtime.precision, teacher.preprocess)
        return cached.fetch(teacher.module, lambda folder: train(settings, folder))

    def _network(self, name: str, role: str, seed: int) -> Network:
        module = self.modules.get(role)
        if module is None and name.startswith("module:"):
            raise ModelError(f"'{name}' was passed as a module; only a run of networks given by name can be repeated.")
        wanted = {"teacher": self.settings.teacher_input, "student": self.settings.student_input}[role]
        weights = {"teacher": self.settings.teacher_weights, "student": self.settings.student_weights}[role]
        trained_on = None if weights is None else input_of_run(weights)
        preprocess = preprocess_for(name if module is None else module, self.data.images, wanted, f"{role}_input", trained_on)
        made = self._model_source(name, preprocess.wanted.size).create(seed) if module is None else module
        return Network.probed(name, Preprocessed(preprocess, made), self.data.input_size, self.task)

    def _student(self) -> tuple[Network, Head | None]:
        """The student, and the head that its weights lack, if any."""
        network = self._network(self.settings.student, "student", self.settings.seed)
        weights = self.settings.student_weights
        return network, None if weights is None else load_student(network, weights, self.data.dataset)

    def _model_source(self, name: str, size: tuple[int, int, int]) -> ModelSource:
        return ModelSource(name, self.task.network_options(), size, self.registry)
