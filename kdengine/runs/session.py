"""Data, device and teacher, checked and ready: what the lanes of a run share, and what makes the lanes."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from kdengine.config.settings import LOADERS, Settings
from kdengine.data.datamodule import DataModule
from kdengine.data.dataset import Data
from kdengine.data.load import load_data
from kdengine.errors import ModelError, SettingsError
from kdengine.methods.distiller import Distiller
from kdengine.networks.factory import NetworkFactory
from kdengine.networks.fingerprint import fingerprint
from kdengine.networks.flops import count_flops
from kdengine.networks.inputs import Preprocessed
from kdengine.networks.models import ModelSource, check_name, count_parameters
from kdengine.networks.network import LaneContext, Network
from kdengine.networks.preprocess import preprocess_for
from kdengine.networks.weights import load_weights
from kdengine.plugins.hooks import Hooks
from kdengine.plugins.registry import Registry
from kdengine.runs.past_weights import check_classes, input_of_run
from kdengine.runs.recorder import FolderRecorder
from kdengine.runs.run import Run
from kdengine.runs.teacher_cache import CachedTeacher
from kdengine.storage.runfolder import RunFolder
from kdengine.tasks.task import Task
from kdengine.training.build import make_lane
from kdengine.training.evaluation import evaluate
from kdengine.training.lane import Lane
from kdengine.training.optimizer import check_optimizer
from kdengine.training.runtime import Runtime
from kdengine.training.teacher import FrozenTeacher

__all__ = ["Loaders", "Session"]

log = logging.getLogger(__name__)
TEACHER_SEED = 1_000_003
"""Added to the seed for the teacher's fresh weights, so that it and a student of its kind begin differently."""


@dataclass(frozen=True)
class Loaders:
    """Loaders of the user's own, in place of a data set; both or neither."""

    train: Iterable[Any] | None = None
    validation: Iterable[Any] | None = None


@dataclass(frozen=True)
class Session:
    """Data, device and teacher, checked and ready, and what makes lanes for them.

    Attributes:
        settings: of the run; the seed decides the weights of new networks.
        registry: finds networks.
        runtime: where everything runs.
        data: batches.
        task: what the student is for.
        modules: ``"student"`` and ``"teacher"``, where the caller gave modules.
        observers: objects with hooks.
        teacher_network: the network to learn from, if any; it may have no weights yet.
        teacher: runs that network, frozen.
    """

    settings: Settings
    registry: Registry
    runtime: Runtime
    data: DataModule
    task: Task
    modules: Mapping[str, nn.Module] = field(default_factory=dict)
    observers: Sequence[object] = ()
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
        alone: bool = False,
    ) -> Session:
        """Check device and networks, load the data, and build the teacher.

        Args:
            settings: of the run.
            registry: finds networks, data and tasks.
            modules: ``"student"`` and ``"teacher"``, in place of the networks that the settings name.
            data: a data set, in place of the one that the settings name.
            loaders: loaders of the user's own.
            observers: objects with hooks.
            alone: run in this process only, even if several were started.

        Raises:
            KDError: for whatever the user can fix.
        """
        train, modules = settings.train, dict(modules or {})
        for own in (train, *([settings.teacher_training] if settings.teacher else [])):
            check_optimizer(own)
        runtime = Runtime(train.device, train.precision, train.channels_last, alone)
        _check_networks(settings, modules, registry)
        batches = _batches(settings, registry, runtime, modules, data, loaders or Loaders())
        task = registry.task(settings.task or batches.task).of(batches, train)
        shared = batches.shared(runtime.rank, runtime.processes)
        return cls(settings, registry, runtime, shared, task, modules, tuple(observers))._with_teacher()

    def for_seed(self, seed: int) -> Session:
        """The same session under another seed: other students, other batches, the same teacher."""
        if seed == self.settings.seed:
            return self
        settings, data = self.settings.model_copy(update={"seed": seed}), self.data
        if data.dataset is not None:
            made = DataModule.of_data(data.dataset, settings, self.runtime.device)
            data = made.shared(self.runtime.rank, self.runtime.processes)
        return replace(self, settings=settings, data=data)

    def student(self) -> Network:
        """The student that was given, or a new one with the weights that the seed decides."""
        return self._network(self.settings.student, "student", self.settings.seed)

    def twin(self) -> Network:
        """One more student with the same weights as :meth:`student` has before it is trained."""
        copied = {role: copy.deepcopy(module) for role, module in self.modules.items() if role == "student"}
        return replace(self, modules=copied).student()

    def lane(self, name: str, student: Network, distillers: Mapping[str, Distiller], settings: Settings | None = None) -> Lane:
        """A lane for a student, ready to train.

        Args:
            name: of the lane.
            student: the network to train.
            distillers: id -> distiller.
            settings: of the lane, where they differ from those of the session.

        Raises:
            KDError: the methods do not fit the networks, or each other.
        """
        data, settings = self.data, settings or self.settings
        kinds: dict[str, str | nn.Module] = {"student": self.modules.get("student", settings.student)}
        preprocess = {"student": student.preprocess}
        teacher = self.teacher_network if settings.teacher is not None else None
        if teacher is not None and settings.teacher is not None:
            kinds["teacher"] = self.modules.get("teacher", settings.teacher)
            preprocess["teacher"] = teacher.preprocess
        options = self.task.network_options()
        factory = NetworkFactory(kinds, options, data.images, self.registry, settings.seed + 1, preprocess)
        context = LaneContext(student, teacher, self.task, data.num_samples, data.input_size, factory)
        return make_lane(name, context, distillers, settings, self.runtime, len(data.train), self.teacher if teacher else None)

    def run(self, settings: Settings, lane: Lane, folder: RunFolder, advice: str = "") -> Run:
        """A run of a lane, with the hooks of its observers; only the main process has any.

        Args:
            settings: of the lane, as resolved.
            lane: the lane.
            folder: where the run is kept.
            advice: custom resume instructions.
        """
        observers = [*self.observers, FolderRecorder(folder)] if self.runtime.is_main else []
        hooks: Hooks = self.registry.hooks(observers)
        return Run(settings, lane, self.data.dataset, self.runtime, folder, hooks, advice)

    def facts(self, teacher: Mapping[str, Any] | None) -> dict[str, Any]:
        """What a manifest says of machine, task, data and teacher.

        Args:
            teacher: what is known of the teacher, where there is one.
        """
        known = {"task": self.task.scoring.to_dict(), "data": self.data.describe()}
        return {**self.runtime.describe(), **known, **({"teacher": teacher} if teacher else {})}

    def ready_teacher(self, needed: bool, train: Callable[[Settings, Path], None]) -> dict[str, Any] | None:
        """Give the teacher its weights where it has none, measure it, and say what is known of it.

        Args:
            needed: whether any lane learns from it.
            train: trains a network by its settings into a folder.

        Raises:
            ModelError: it has no weights, and cannot be trained here.
        """
        network = self.teacher_network
        if network is None:
            return None
        best = f"best_{self.task.scoring.headline.name}"
        if "teacher" in self.modules or self.settings.teacher_weights is not None or self._brings_weights(network.name):
            log.info("Measuring the teacher %s", network.name)
            facts: dict[str, Any] = dict(evaluate(network.preprocessed, self.data.test, self.task, self.runtime))
            facts[best] = facts[self.task.scoring.headline.name]
        elif needed:
            facts = dict(self._cached_teacher(network, train))
        else:
            log.info("The teacher %s is not trained first: nothing here learns from its weights", network.name)
            facts = {self.task.scoring.headline.name: None, best: None}
        sizes = {"parameters": count_parameters(network.module), "flops": count_flops(network.module, network.input_size)}
        marks = {"fingerprint": fingerprint(network.module), "input": network.preprocess.wanted.describe()}
        return {"name": network.name, **facts, **sizes, **marks}

    def _with_teacher(self) -> Session:
        """The same session with its teacher built, with the weights of its file where there is one."""
        name = self.settings.teacher
        if name is None:
            return self
        network = self._network(name, "teacher", self.settings.seed + TEACHER_SEED)
        network.announce()
        if self.settings.teacher_weights is not None:
            check_classes(self.settings.teacher_weights, self.data.dataset)
            load_weights(network.module, self.settings.teacher_weights, f"the teacher '{name}'")
        return replace(self, teacher_network=network, teacher=FrozenTeacher(network.preprocessed, self.runtime))

    def _cached_teacher(self, teacher: Network, train: Callable[[Settings, Path], None]) -> Mapping[str, Any]:
        if self.data.dataset is None:
            raise ModelError(
                f"The teacher '{teacher.name}' has no weights, and with loaders of your own it cannot be trained for you. "
                "Give teacher_weights, or a trained module."
            )
        ours = self.settings
        own = {"seed": ours.seed, "train": ours.teacher_training, "student_input": ours.teacher_input, "task": ours.task}
        settings = Settings(student=teacher.name, data=ours.data, **own)
        cached = CachedTeacher(settings, self.data.dataset, self.runtime.precision, teacher.preprocess)
        return cached.fetch(teacher.module, lambda folder: train(settings, folder))

    def _network(self, name: str, role: str, seed: int) -> Network:
        module = self.modules.get(role)
        if module is None and name.startswith("module:"):
            raise ModelError(f"'{name}' was a module of the caller's own; only a run of named networks can be repeated.")
        wanted = {"teacher": self.settings.teacher_input, "student": self.settings.student_input}[role]
        weights = self.settings.teacher_weights if role == "teacher" else None
        trained_on = None if weights is None else input_of_run(weights)
        preprocess = preprocess_for(name if module is None else module, self.data.images, wanted, f"{role}_input", trained_on)
        made = self._model_source(name, preprocess.wanted.size).create(seed) if module is None else module
        return Network.probed(name, Preprocessed(preprocess, made), self.data.input_size, self.task)

    def _model_source(self, name: str, size: tuple[int, int, int]) -> ModelSource:
        return ModelSource(name, self.task.network_options(), size, self.registry)

    def _brings_weights(self, name: str) -> bool:
        return self._model_source(name, self.data.input_size).brings_weights


def _check_networks(settings: Settings, modules: Mapping[str, nn.Module], registry: Registry) -> None:
    """Refuse unknown networks and missing weights before the data are read, which may take a while.

    Raises:
        ModelError: a network or a file of weights does not exist.
    """
    for role, name in (("teacher", settings.teacher), ("student", settings.student)):
        if name is not None and role not in modules:
            check_name(name, registry)
    if settings.teacher_weights is not None and not os.path.exists(os.path.expanduser(settings.teacher_weights)):
        raise ModelError(f"There is no file of weights '{settings.teacher_weights}'.")


def _batches(
    settings: Settings,
    registry: Registry,
    runtime: Runtime,
    modules: Mapping[str, nn.Module],
    data: Data | None,
    loaders: Loaders,
) -> DataModule:
    """Batches of the user's loaders, of a data set, or of what the settings name."""
    train, validation = loaders.train, loaders.validation
    if train is not None and validation is not None:
        if settings.train.validation:
            raise SettingsError("train.validation is for data that kdengine loads. Split loaders of your own yourself.")
        sizes = {"teacher": settings.teacher_input.size, "student": settings.student_input.size}
        networks = [(module, sizes[role]) for role, module in modules.items()]
        return DataModule.of_loaders(train, validation, runtime.device, networks)
    if train is not None or validation is not None:
        raise SettingsError("fit() takes a train_loader and a val_loader together, or neither.")
    if data is None and settings.data == LOADERS:
        raise SettingsError("This run was trained on loaders of your own. Give them again: fit(train_loader, val_loader).")
    if data is None:
        log.info("Loading %s", settings.data)
    return DataModule.of_data(data or load_data(settings.data, registry), settings, runtime.device)
