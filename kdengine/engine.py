"""The engine: what a library user calls.

Engine("timm:resnet32", "resnet8", plugins=["rkd"]).fit()
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from kdengine.config.settings import LOADERS, Settings, merge
from kdengine.config.specs import Spec
from kdengine.config.trust import check_trusted
from kdengine.data.datamodule import DataModule
from kdengine.data.dataset import Data
from kdengine.data.load import load_data, ready
from kdengine.errors import ModelError, SettingsError
from kdengine.methods.distiller import Distiller
from kdengine.plugins.recipes import recipe_values
from kdengine.plugins.registry import Registry
from kdengine.plugins.selection import checked_settings, choose_distillers, label_of, resolved
from kdengine.runs.plan import Plan
from kdengine.runs.result import Result
from kdengine.runs.resume import changed_settings
from kdengine.runs.run import Run, train_one
from kdengine.runs.session import Session, check_networks
from kdengine.storage.runfolder import RunFolder, folder_named
from kdengine.training.optimizer import check_optimizer
from kdengine.training.runtime import Runtime, is_first_process

__all__ = ["Engine"]

log = logging.getLogger(__name__)


class Engine:
    """Distils a teacher into a student.

    Args:
        teacher: a model spec or a module that is already trained; None for plain training.
        student: a model spec or a module; a module is trained in place.
        plugins: methods by name, distribution or file, or distillers.
        data: a data spec, or a :class:`kdengine.Data`; ``digits`` by default, and not used when ``fit`` is given
            loaders.
        epochs: epochs of the joint phase.
        seed: of weights, batches, augmentation and dropout; 0 by default.
        out: the run folder; by default a new one below ``runs/``.
        teacher_weights: file of the teacher's weights; without it a teacher named by a spec is trained first.
        teacher_train: what the teacher's own training does otherwise, such as ``{"epochs": 100}``.
        teacher_input: images that the teacher receives, such as ``{"size": 224}``, with ``mean`` and ``std`` on the scale 0
            to 1; what is left out is as its pretrained weights were made for, else as the data has it.
        student_input: the same of the student.
        options: method -> its options, for methods named by text.
        recipe: name of a recipe, or a TOML file of settings; what is said here goes before what it says.
        trust: run the code of others that a file given as recipe names: ``python:`` specs and plugin files.
        registry: finds plugins; a new one by default.
        observers: objects with ``kdengine_...`` hooks.
        **train: any of the ``train`` settings, such as ``lr=0.05``.

    Raises:
        KDError: for whatever of this the user can mend.
    """

    def __init__(
        self,
        teacher: str | nn.Module | None = None,
        student: str | nn.Module | None = None,
        plugins: Iterable[str | Distiller] = (),
        data: str | Data | None = None,
        *,
        epochs: int | None = None,
        seed: int | None = None,
        out: str | Path | None = None,
        teacher_weights: str | Path | None = None,
        teacher_train: Mapping[str, Any] | None = None,
        teacher_input: Mapping[str, Any] | None = None,
        student_input: Mapping[str, Any] | None = None,
        options: Mapping[str, Mapping[str, Any]] | None = None,
        recipe: str | Path | None = None,
        trust: bool = False,
        registry: Registry | None = None,
        observers: Iterable[object] = (),
        **train: Any,
    ) -> None:
        if student is None:
            raise SettingsError("There is no student. Name a network to train.")
        self.registry = registry or Registry()
        chosen = list([plugins] if isinstance(plugins, (str, Distiller)) else plugins)
        said: dict[str, Any] = {
            "teacher": _name(teacher),
            "student": _name(student),
            "methods": [plugin.name if isinstance(plugin, Distiller) else plugin for plugin in chosen],
            "data": data.name if isinstance(data, Data) else data,
            "seed": seed,
            "teacher_weights": None if teacher_weights is None else str(teacher_weights),
            "teacher_train": dict(teacher_train or {}),
            "teacher_input": {} if teacher_input is None else teacher_input,
            "student_input": {} if student_input is None else student_input,
            "options": dict(options or {}),
            "train": {**train, **({} if epochs is None else {"epochs": epochs})},
        }
        said = {key: value for key, value in said.items() if value not in (None, [])}
        base = {} if recipe is None else recipe_values(str(recipe), chosen, self.registry, trust)
        self.settings = checked_settings(merge(base, said), chosen, self.registry)
        self._out = None if out is None else folder_named(out)
        self._observers = list(observers)
        self._resumed = self._override = False
        self._again = ""
        self._alone = False
        self._plugins = chosen or list(self.settings.methods)
        networks = {"teacher": teacher, "student": student}
        self._given = {role: network for role, network in networks.items() if isinstance(network, nn.Module)}
        self._data = ready(data) if isinstance(data, Data) else None

    @classmethod
    def of(
        cls,
        settings: Settings,
        out: str | Path | None = None,
        registry: Registry | None = None,
        observers: Iterable[object] = (),
        data: Data | None = None,
    ) -> Engine:
        """An engine from complete settings, as a run folder or the command line has them."""
        return cls(
            settings.teacher,
            settings.student,
            settings.methods,
            data or settings.data,
            seed=settings.seed,
            out=out,
            teacher_weights=settings.teacher_weights,
            teacher_train=settings.teacher_train,
            teacher_input=settings.teacher_input.model_dump(exclude_none=True),
            student_input=settings.student_input.model_dump(exclude_none=True),
            options=settings.options,
            registry=registry,
            observers=observers,
            **settings.train.model_dump(),
        )

    @classmethod
    def resume(
        cls,
        folder: str | Path,
        registry: Registry | None = None,
        observers: Iterable[object] = (),
        *,
        teacher: nn.Module | None = None,
        student: nn.Module | None = None,
        changes: Mapping[str, Any] | None = None,
        override: bool = False,
        trust: bool = False,
    ) -> Engine:
        """An engine that goes on with an interrupted run, where its state was saved last.

        Args:
            folder: the run folder.
            registry: as for :class:`Engine`.
            observers: as for :class:`Engine`.
            teacher: the module that was the teacher, where that was no name.
            student: the module that was the student, where that was no name.
            changes: settings to go on with otherwise, such as ``{"train": {"workers": 8}}``.
            override: allow changes that decide the numbers, another precision, other data or another teacher.
            trust: run the code of others that the folder names: ``python:`` specs and plugin files.

        Raises:
            SettingsError: there is no run in the folder, it is already finished, or it may not go on like that.
        """
        place = RunFolder(folder)
        stored = place.settings()
        if place.result() is not None:
            raise SettingsError(f"The run in '{folder}' is finished: 'kdengine evaluate {folder}' measures it again.")
        check_trusted(stored.model_dump(), place.path / "run.toml", trust)
        registry = registry or Registry()
        settings = changed_settings(_with_its_teacher(stored), changes, place.path, registry, override) if changes else stored
        engine = cls.of(settings, folder, registry, observers)
        modules = {"teacher": teacher, "student": student}
        engine._given = {role: module for role, module in modules.items() if module is not None}
        engine._resumed, engine._override = True, override
        return engine

    def fit(self, train_loader: Iterable[Any] | None = None, val_loader: Iterable[Any] | None = None) -> Result:
        """Train the student.

        Args:
            train_loader: gives (images [B, C, H, W], labels [B]); the data of the engine by default.
            val_loader: the same, for measuring accuracy.

        Raises:
            KDError: for whatever the user can mend; before anything is written, wherever that can be known.
            KeyboardInterrupt: training was interrupted; the state after the last step has been saved.
        """
        plan = self.plan(train_loader, val_loader)
        room, folder, lane = plan.room, plan.folder, plan.lane
        facts = room.ready_teacher(lane.needs_teacher, partial(self.train_teacher, room.source.data))
        run = Run(plan.settings, lane, room.source.data, room.runtime, folder, self.hooks(folder, room.runtime), self._again)
        run.prepare(room.source, facts, self._resumed, self._override)
        return train_one(run, room.source, facts)

    def room(self, train_loader: Iterable[Any] | None = None, val_loader: Iterable[Any] | None = None) -> Session:
        """Data, device and teacher, checked and ready; takes what :meth:`fit` takes.

        Raises:
            KDError: for whatever the user can mend.
        """
        runtime = self._checked_runtime()
        check_networks(self.settings, self._given, self.registry)
        source = self._source(train_loader, val_loader, runtime).shared(runtime.rank, runtime.processes)
        return Session(self.settings, self.registry, runtime, source, self._given).with_teacher()

    def plan(self, train_loader: Iterable[Any] | None = None, val_loader: Iterable[Any] | None = None) -> Plan:
        """Put the run together and check it, without training or writing anything; takes what :meth:`fit` takes.

        Raises:
            KDError: for whatever the user can mend.
        """
        distillers = choose_distillers(self._plugins, self.settings.options, self.registry)
        settings = resolved(self.settings, distillers, own_loaders=train_loader is not None)
        label = label_of(self._plugins, self.registry)
        folder = self._folder(label)
        room = self.room(train_loader, val_loader)
        folder = folder.agreed(room.runtime)
        student = room.student()
        student.announce()
        return Plan(settings, folder, room, student, room.lane(label, student, distillers))

    def _checked_runtime(self) -> Runtime:
        """Device and precision; optimizers that cannot be made are refused on the way."""
        train = self.settings.train
        check_optimizer(train)
        if self.settings.teacher is not None:
            check_optimizer(self.settings.teacher_training)
        return Runtime(train.device, train.precision, train.channels_last, self._alone)

    def _folder(self, label: str) -> RunFolder:
        student = Spec.parse(self.settings.student, ModelError).name.replace("/", "-")
        folder = RunFolder(self._out) if self._out else RunFolder.default(f"{student}-{label.replace('+', '-')}")
        if not self._resumed and is_first_process():
            folder.check_new()
        return folder

    def hooks(self, folder: RunFolder, runtime: Runtime) -> Any:
        """The hooks of one run: its folder, the observers and the plugins; only the main process has any."""
        return self.registry.hooks([*self._observers, folder] if runtime.is_main else [])

    def _source(self, train: Iterable[Any] | None, test: Iterable[Any] | None, runtime: Runtime) -> DataModule:
        if train is not None and test is not None:
            if self.settings.train.validation:
                raise SettingsError("train.validation is for data that kdengine loads. Split loaders of your own yourself.")
            sizes = {"teacher": self.settings.teacher_input.size, "student": self.settings.student_input.size}
            modules = [(module, sizes[role]) for role, module in self._given.items()]
            return DataModule.of_loaders(train, test, runtime.device, modules)
        if train is not None or test is not None:
            raise SettingsError("fit() takes a train_loader and a val_loader together, or neither.")
        if self._data is None and self.settings.data == LOADERS:
            raise SettingsError("This run was trained on loaders of your own. Give them again: fit(train_loader, val_loader).")
        if self._data is None:
            log.info("Loading %s", self.settings.data)
        data = self._data or load_data(self.settings.data, self.registry)
        return DataModule.of_data(data, self.settings, runtime.device)

    def train_teacher(self, data: Data | None, settings: Settings, folder: Path) -> None:
        """Train a teacher by itself into a folder of the cache, or go on with that."""
        engine = Engine.of(settings, folder, self.registry, self._observers, data)
        engine._resumed = (folder / "run.toml").exists()
        engine._again = "the same command: the teacher's training goes on where it stopped"
        engine._alone = True  # the other processes wait for it
        engine.fit()


def _with_its_teacher(settings: Settings) -> Settings:
    """The same settings, in which the teacher's own training no longer follows the student's."""
    if settings.teacher is None:
        return settings
    return settings.model_copy(update={"teacher_train": settings.teacher_training.model_dump(mode="json", exclude_none=True)})


def _name(network: str | nn.Module | None) -> str | None:
    return f"module:{type(network).__name__}" if isinstance(network, nn.Module) else network
