"""The engine: what a library user calls.

Engine("timm:resnet32", "resnet8", plugins=["rkd"]).fit()
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from kdengine.assembly import make_lane
from kdengine.data import load_data, ready
from kdengine.dataset import Data
from kdengine.distiller import Distiller
from kdengine.errors import ModelError, SettingsError
from kdengine.evaluation import evaluate
from kdengine.lane import Lane
from kdengine.models import ModelSource, check_name, count_flops, count_parameters
from kdengine.network_maker import NetworkMaker
from kdengine.optim import check_optimizer
from kdengine.plan import Plan
from kdengine.pupil import Network, Pupil
from kdengine.recipes import recipe_values
from kdengine.registry import Registry
from kdengine.result import Result
from kdengine.run import Run, train_one
from kdengine.runfolder import RunFolder
from kdengine.runtime import Runtime
from kdengine.selection import checked_settings, choose_distillers, label_of, resolved
from kdengine.settings import Settings, merge
from kdengine.source import LOADERS, Source
from kdengine.specs import Spec
from kdengine.teacher_pass import TeacherPass
from kdengine.teachers import CachedTeacher
from kdengine.weights import load_weights

__all__ = ["Engine"]

log = logging.getLogger(__name__)
TEACHER_SEED = 1_000_003
"""Added to the seed for the teacher's fresh weights, so that it and a student of its kind begin differently."""


class Engine:
    """Distils a teacher into a student.

    Args:
        teacher: a model spec or a module that is already trained; None for plain training.
        student: a model spec or a module; a module is trained in place.
        plugins: methods by name, distribution or file, or distillers.
        data: a data spec, or a :class:`kdengine.Data`; ``digits`` by default, and not used when ``fit`` is given
            loaders.
        epochs: epochs of the joint stage.
        seed: of weights, batches, augmentation and dropout; 0 by default.
        out: the run folder; by default a new one below ``runs/``.
        teacher_weights: file of the teacher's weights; without it a teacher named by a spec is trained first.
        teacher_train: what the teacher's own training does otherwise, such as ``{"epochs": 100}``.
        options: method -> its options, for methods named by text.
        recipe: name of a recipe, or a TOML file of settings; what is said here goes before what it says.
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
        options: Mapping[str, Mapping[str, Any]] | None = None,
        recipe: str | Path | None = None,
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
            "options": dict(options or {}),
            "train": {**train, **({} if epochs is None else {"epochs": epochs})},
        }
        said = {key: value for key, value in said.items() if value not in (None, [])}
        base = {} if recipe is None else recipe_values(str(recipe), chosen, self.registry)
        self.settings = checked_settings(merge(base, said), chosen, self.registry)
        self._out = None if out is None else Path(out)
        self._observers = list(observers)
        self._resumed = False
        self._again = ""
        self._alone = False
        self._plugins = chosen or list(self.settings.methods)
        self._teacher = teacher if isinstance(teacher, nn.Module) else None
        self._student = student if isinstance(student, nn.Module) else None
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
            options=settings.options,
            registry=registry,
            observers=observers,
            **settings.train.model_dump(),
        )

    @classmethod
    def resume(cls, folder: str | Path, registry: Registry | None = None, observers: Iterable[object] = ()) -> Engine:
        """An engine that goes on after the last finished epoch of an interrupted run.

        Raises:
            SettingsError: there is no run in the folder, or it is already finished.
        """
        place = RunFolder(folder)
        settings = place.settings()
        if place.result() is not None:
            raise SettingsError(f"The run in '{folder}' is finished: 'kdengine evaluate {folder}' measures it again.")
        engine = cls.of(settings, folder, registry, observers)
        engine._resumed = True
        return engine

    def fit(self, train_loader: Iterable[Any] | None = None, val_loader: Iterable[Any] | None = None) -> Result:
        """Train the student.

        Args:
            train_loader: gives (images [B, C, H, W], labels [B]); the data of the engine by default.
            val_loader: the same, for measuring accuracy.

        Raises:
            KDError: for whatever the user can mend; before anything is written, wherever that can be known.
            KeyboardInterrupt: the state after the last finished epoch has been saved.
        """
        plan = self.plan(train_loader, val_loader)
        runtime, folder, source, teacher, lane = plan.runtime, plan.folder, plan.source, plan.teacher, plan.lane
        facts = self._ready_teacher(plan) if teacher else None
        state = folder.load_state() if self._resumed else {}
        if state:
            lane.load_state_dict(state[lane.name])
        elif runtime.is_main:
            folder.begin(plan.settings, {**runtime.describe(), "data": source.describe()}, fresh=not self._resumed)
        hook = self.registry.hooks([*self._observers, folder] if runtime.is_main else [])
        again = self._again or f"kdengine run --resume {folder.path}"
        run = Run(plan.settings, [lane], source.data, runtime, folder, hook, again)
        return train_one(run, source, facts)

    def plan(self, train_loader: Iterable[Any] | None = None, val_loader: Iterable[Any] | None = None) -> Plan:
        """Put the run together and check it, without training or writing anything; takes what :meth:`fit` takes.

        Raises:
            KDError: for whatever the user can mend.
        """
        distillers = choose_distillers(self._plugins, self.settings.options, self.registry)
        settings = resolved(self.settings, distillers, own_loaders=train_loader is not None)
        runtime = self._checked_runtime()
        label = label_of(self._plugins, self.registry)
        folder = self._folder(label, runtime)
        self._check_names()
        source = self._source(train_loader, val_loader, runtime).shared(runtime.rank, runtime.processes)
        student = self._network(settings.student, self._student, source, settings.seed)
        teacher = self._teacher_network(source)
        lane = self._lane(label, student, teacher, distillers, source, runtime)
        return Plan(settings, runtime, folder, source, student, teacher, lane)

    def _checked_runtime(self) -> Runtime:
        """Device and precision; optimizers that cannot be made are refused on the way."""
        train = self.settings.train
        check_optimizer(train)
        if self.settings.teacher is not None:
            check_optimizer(self.settings.teacher_training)
        return Runtime(train.device, train.precision, train.channels_last, self._alone)

    def _check_names(self) -> None:
        """Refuse unknown networks and missing weights before the data are read, which may take a while."""
        for name, module in ((self.settings.teacher, self._teacher), (self.settings.student, self._student)):
            if name is not None and module is None:
                check_name(name, self.registry)
        weights = self.settings.teacher_weights
        if weights is not None and not Path(weights).exists():
            raise ModelError(f"There is no file of weights '{weights}'.")

    def _folder(self, label: str, runtime: Runtime) -> RunFolder:
        student = Spec.parse(self.settings.student, ModelError).name.replace("/", "-")
        folder = RunFolder(self._out) if self._out else RunFolder.default(f"{student}-{label.replace('+', '-')}")
        if not self._resumed and runtime.is_main:
            folder.check_new()
        path = runtime.same(folder.path)
        return folder if runtime.is_main else RunFolder(path)

    def _source(self, train: Iterable[Any] | None, test: Iterable[Any] | None, runtime: Runtime) -> Source:
        if train is not None and test is not None:
            if self.settings.train.validation:
                raise SettingsError("train.validation is for data that kdengine loads. Split loaders of your own yourself.")
            modules = [module for module in (self._teacher, self._student) if module is not None]
            return Source.of_loaders(train, test, runtime.device, modules)
        if train is not None or test is not None:
            raise SettingsError("fit() takes a train_loader and a val_loader together, or neither.")
        if self._data is None and self.settings.data == LOADERS:
            raise SettingsError("This run was trained on loaders of your own. Give them again: fit(train_loader, val_loader).")
        if self._data is None:
            log.info("Loading %s", self.settings.data)
        data = self._data or load_data(self.settings.data, self.registry)
        return Source.of_data(data, self.settings, runtime.device)

    def _network(self, name: str, module: nn.Module | None, source: Source, seed: int) -> Network:
        if module is None and name.startswith("module:"):
            raise ModelError(f"'{name}' was a module of the caller's own; only a run of named networks can be repeated.")
        made = module if module is not None else self._model_source(name, source).create(seed)
        return Network.probed(name, made, source.input_size, source.num_classes)

    def _model_source(self, name: str, source: Source) -> ModelSource:
        return ModelSource(name, source.num_classes, source.input_size, self.registry)

    def _teacher_network(self, source: Source) -> Network | None:
        """The teacher, with the weights of its file where there is one; its name differs from the student's."""
        name = self.settings.teacher
        if name is None:
            return None
        network = self._network(name, self._teacher, source, self.settings.seed + TEACHER_SEED)
        if self.settings.teacher_weights is not None:
            load_weights(network.module, self.settings.teacher_weights, f"the teacher '{name}'")
        network.module.eval()
        return network

    def _lane(
        self,
        label: str,
        student: Network,
        teacher: Network | None,
        distillers: Mapping[str, Distiller],
        source: Source,
        runtime: Runtime,
    ) -> Lane:
        settings = self.settings
        kinds: dict[str, str | nn.Module] = {"student": self._student or settings.student}
        if settings.teacher is not None:
            kinds["teacher"] = self._teacher or settings.teacher
        maker = NetworkMaker(kinds, source.num_classes, source.input_size, self.registry, settings.seed + 1)
        pupil = Pupil(student, teacher, source.num_classes, source.num_samples, source.input_size, maker)
        taught_by = TeacherPass(teacher.module, runtime) if teacher else None
        return make_lane(label, pupil, distillers, settings, runtime, len(source.train), taught_by)

    def _ready_teacher(self, plan: Plan) -> dict[str, Any]:
        """Give the teacher its weights where it has none and a lane learns from them, and measure it."""
        teacher, source, runtime = plan.teacher, plan.source, plan.runtime
        assert teacher is not None
        facts: dict[str, Any] = {"name": teacher.name}
        given = self._teacher is not None or self.settings.teacher_weights is not None
        if given or self._model_source(teacher.name, source).brings_weights:
            log.info("Measuring the teacher %s", teacher.name)
            runtime.place(teacher.module)
            accuracy = evaluate(teacher.module, source.test, runtime)
            facts |= {"top1": accuracy["top1"], "best_top1": accuracy["top1"], "top5": accuracy["top5"], "seconds": 0.0}
        elif plan.lane.needs_teacher:
            facts |= self._cached_teacher(teacher, source, runtime)
        else:
            log.info("The teacher %s is not trained first: nothing in this run learns from its weights", teacher.name)
            facts |= {"top1": None, "best_top1": None}
        sizes = {"parameters": count_parameters(teacher.module), "flops": count_flops(teacher.module, source.input_size)}
        return {**facts, **sizes}

    def _cached_teacher(self, teacher: Network, source: Source, runtime: Runtime) -> Mapping[str, Any]:
        if source.data is None:
            raise ModelError(
                f"The teacher '{teacher.name}' has no weights, and with loaders of your own it cannot be trained for you. "
                "Give teacher_weights, or a trained module."
            )
        settings = Settings(
            student=teacher.name, data=self.settings.data, seed=self.settings.seed, train=self.settings.teacher_training
        )
        cached = CachedTeacher(settings, source.data, runtime.precision)
        data = source.data

        def train(folder: Path) -> None:
            engine = Engine.of(settings, folder, self.registry, self._observers, data)
            engine._resumed = (folder / "run.toml").exists()
            engine._again = "the same command: the teacher's training goes on where it stopped"
            engine._alone = True  # the other processes wait for it
            engine.fit()

        return cached.fetch(teacher.module, train)


def _name(network: str | nn.Module | None) -> str | None:
    return f"module:{type(network).__name__}" if isinstance(network, nn.Module) else network
