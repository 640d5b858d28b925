"""Engine and Result: what a library user calls.

    Engine("timm:resnet32", "resnet8", plugins=["rkd"]).fit()
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from kdengine.assembly import Network, Pupil, choose_distillers, fresh_copies, make_lane
from kdengine.data import Data, load_data
from kdengine.distiller import Distiller
from kdengine.errors import ModelError, SettingsError
from kdengine.lane import Lane
from kdengine.loop import TeacherPass, evaluate, fit
from kdengine.models import ModelSource, count_flops, count_parameters, load_weights
from kdengine.optim import check_optimizer
from kdengine.registry import Registry
from kdengine.run import Run
from kdengine.runfolder import RunFolder
from kdengine.runtime import Runtime
from kdengine.settings import Settings, TrainSettings, merge, read_toml
from kdengine.source import Source
from kdengine.specs import Spec
from kdengine.teachers import CachedTeacher

__all__ = ["Engine", "Result"]

log = logging.getLogger(__name__)
TEACHER_SEED = 1_000_003
"""Added to the seed for the teacher's fresh weights, so that it and a student of its kind begin differently."""


@dataclass(frozen=True)
class Result:
    """What a run came to.

    Attributes:
        student: the trained network with its last weights, in ``eval()``, free of hooks and wrappers.
        top1: accuracy on the test images after the last epoch, in percent.
        best_top1: the best of all epochs.
        teacher_top1: the teacher's accuracy, or None for plain training.
        history: one row an epoch, as in ``metrics.jsonl``.
        folder: the run folder.
        facts: what ``result.json`` holds.
    """

    student: nn.Module
    top1: float
    best_top1: float
    teacher_top1: float | None
    history: Sequence[Mapping[str, Any]]
    folder: Path
    facts: Mapping[str, Any] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Teacher, student and data as plain data."""
        return dict(self.facts)


class Engine:
    """Distils a teacher into a student.

    Args:
        teacher: a model spec or a module that is already trained; None for plain training.
        student: a model spec or a module; a module is trained in place.
        plugins: methods by name, distribution or file, or distillers.
        data: a data spec, or a :class:`kdengine.data.Data`; not used when ``fit`` is given loaders.
        epochs: epochs of the joint stage.
        seed: of weights, batches, augmentation and dropout.
        out: the run folder; by default a new one below ``runs/``.
        teacher_weights: file of the teacher's weights; without it a teacher named by a spec is trained first.
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
        data: str | Data = "digits",
        *,
        epochs: int | None = None,
        seed: int = 0,
        out: str | Path | None = None,
        teacher_weights: str | Path | None = None,
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
            "options": dict(options or {}),
            "train": {**train, **({} if epochs is None else {"epochs": epochs})},
        }
        base = {} if recipe is None else recipe_values(str(recipe), chosen, self.registry)
        self._prepare(Settings.checked(merge(base, said)), out, observers)
        self._plugins = chosen
        self._teacher = teacher if isinstance(teacher, nn.Module) else None
        self._student = student if isinstance(student, nn.Module) else None
        self._data = data if isinstance(data, Data) else None

    @classmethod
    def of(
        cls, settings: Settings, out: str | Path | None = None, registry: Registry | None = None,
        observers: Iterable[object] = (), resume: bool = False,
    ) -> Engine:
        """An engine from complete settings, as a run folder or the command line has them."""
        engine = cls.__new__(cls)
        engine.registry = registry or Registry()
        engine._prepare(settings, out, observers, resume)
        engine._plugins = list(settings.methods)
        engine._teacher = engine._student = engine._data = None
        return engine

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
        return cls.of(settings, folder, registry, observers, resume=True)

    def _prepare(
        self, settings: Settings, out: str | Path | None, observers: Iterable[object], resume: bool = False
    ) -> None:
        self.settings = settings
        self._out = None if out is None else Path(out)
        self._observers = list(observers)
        self._resume = resume
        self._again = ""

    def fit(self, train_loader: Iterable[Any] | None = None, val_loader: Iterable[Any] | None = None) -> Result:
        """Train the student.

        Args:
            train_loader: gives (images [B, C, H, W], labels [B]); the data of the engine by default.
            val_loader: the same, for measuring accuracy.

        Raises:
            KDError: for whatever the user can mend; before anything is written, wherever that can be known.
            KeyboardInterrupt: the state after the last finished epoch has been saved.
        """
        settings, train = self.settings, self.settings.train
        distillers = choose_distillers(self._plugins, settings.options, self.registry)
        check_optimizer(train)
        runtime = Runtime(train.device, train.precision, train.channels_last)
        folder = self._folder(list(distillers))
        source = self._source(train_loader, val_loader, runtime)
        student = self._network(settings.student, self._student, source, settings.seed)
        teacher = self._teacher_network(source)
        lane = self._lane(student, teacher, distillers, source, runtime)
        facts = self._ready_teacher(teacher, source, runtime) if teacher else None
        teachers = {teacher.name: TeacherPass(teacher.module, runtime)} if teacher and lane.teacher else {}
        again = self._again or f"kdengine run --resume {folder.path}"
        run = Run(_title(settings, distillers), settings, [lane], source.data, runtime, folder, self._hooks(folder), again)
        return self._train(run, teachers, source, facts, student)

    def _train(
        self, run: Run, teachers: Mapping[str, TeacherPass], source: Source, teacher: Mapping[str, Any] | None, student: Network
    ) -> Result:
        (lane,) = run.lanes
        if self._resume and (state := run.folder.load_state()):
            lane.load_state_dict(state[lane.name])
        else:
            run.folder.begin(self.settings, {**run.runtime.describe(), "data": source.describe()})
        try:
            run.hook.kdengine_before_fit(run=run)
            fit(run, run.lanes, teachers, source.train, source.test)
            if lane.failure is not None:
                raise lane.failure
            result = self._result(run, source, teacher, student)
            run.hook.kdengine_after_fit(run=run, result=result)
        except BaseException as error:
            run.hook.kdengine_on_error(run=run, error=error)
            raise
        finally:
            lane.student.eval()
            self._unhook(run.folder)
        return result

    def _result(self, run: Run, source: Source, teacher: Mapping[str, Any] | None, student: Network) -> Result:
        (lane,) = run.lanes
        summary = lane.summary()
        module = lane.student.eval()
        for name, distiller in lane.module.distillers.items():
            assert isinstance(distiller, Distiller), name
            module = distiller.deploy(module)
        facts = {
            "methods": list(lane.module.distillers.keys()),
            "teacher": dict(teacher) if teacher else None,
            "student": {
                "name": student.name,
                **summary,
                "parameters": count_parameters(module),
                "training_parameters": count_parameters(lane.module),
                "flops": count_flops(module, source.input_size),
            },
            "data": source.describe(),
            "settings": self.settings.model_dump(mode="json"),
        }
        return Result(
            student=module,
            top1=summary["top1"],
            best_top1=summary["best_top1"],
            teacher_top1=teacher["top1"] if teacher else None,
            history=list(lane.history),
            folder=run.folder.path,
            facts=facts,
        )

    def _folder(self, methods: Sequence[str]) -> RunFolder:
        student = Spec.parse(self.settings.student, ModelError).name.replace("/", "-")
        folder = RunFolder(self._out) if self._out else RunFolder.default("-".join([student, *(methods or ["plain"])]))
        if not self._resume:
            folder.check_new()
        return folder

    def _source(self, train: Iterable[Any] | None, test: Iterable[Any] | None, runtime: Runtime) -> Source:
        if train is None and test is None:
            log.info("Loading %s", self.settings.data)
            data = self._data or load_data(self.settings.data, self.registry)
            return Source.of_data(data, self.settings, runtime.device)
        if train is None or test is None:
            raise SettingsError("fit() takes a train_loader and a val_loader together, or neither.")
        return Source.of_loaders(train, test, runtime.device)

    def _network(self, name: str, module: nn.Module | None, source: Source, seed: int) -> Network:
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
        return network

    def _lane(
        self, student: Network, teacher: Network | None, distillers: Mapping[str, Distiller], source: Source, runtime: Runtime
    ) -> Lane:
        spec_made = self._student is None
        maker = self._model_source(self.settings.student, source)
        new_student = (lambda: maker.create(self.settings.seed + 1)) if spec_made else fresh_copies(student.module)
        pupil = Pupil(student, teacher, source.num_classes, source.num_samples, new_student)
        name = "+".join(distillers) or "plain"
        return make_lane(name, pupil, distillers, self.settings, runtime, len(source.train))

    def _ready_teacher(self, teacher: Network, source: Source, runtime: Runtime) -> dict[str, Any]:
        """Give the teacher its weights where it has none, and measure it."""
        facts: dict[str, Any] = {"name": teacher.name}
        given = self._teacher is not None or self.settings.teacher_weights is not None
        if given or self._model_source(teacher.name, source).brings_weights:
            log.info("Measuring the teacher %s", teacher.name)
            runtime.place(teacher.module)
            accuracy = evaluate(teacher.module, source.test, runtime)
            facts |= {"top1": accuracy["top1"], "best_top1": accuracy["top1"], "top5": accuracy["top5"], "seconds": 0.0}
        else:
            facts |= self._cached_teacher(teacher, source, runtime)
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
            engine = Engine.of(settings, folder, self.registry, self._observers, resume=(folder / "run.toml").exists())
            engine._data = data
            engine._again = "the same command: the teacher's training goes on where it stopped"
            engine.fit()

        return cached.fetch(teacher.module, train)

    def _hooks(self, folder: RunFolder) -> Any:
        for observer in (folder, *self._observers):
            if not self.registry.manager.is_registered(observer):
                self.registry.manager.register(observer)
        return self.registry.manager.hook

    def _unhook(self, folder: RunFolder) -> None:
        self.registry.manager.unregister(folder)


def recipe_values(recipe: str, methods: Sequence[Any], registry: Registry) -> dict[str, Any]:
    """The settings of a recipe or a TOML file; its options for methods that the run does not use are left out.

    Raises:
        PluginError: there is no such recipe.
        SettingsError: the file is no TOML.
    """
    path = Path(recipe) if recipe.endswith(".toml") else registry.recipe(recipe)
    values = read_toml(path)
    used = {method.name if isinstance(method, Distiller) else found.name
            for method in methods
            for found in ([method] if isinstance(method, Distiller) else registry.methods(method))}
    options = values.get("options", {})
    return {**values, "options": {key: value for key, value in options.items() if key in used}}


def _name(network: str | nn.Module | None) -> str | None:
    return f"module:{type(network).__name__}" if isinstance(network, nn.Module) else network


def _title(settings: Settings, distillers: Mapping[str, Distiller]) -> str:
    if settings.teacher is None:
        return f"{settings.student} on {settings.data}"
    methods = " + ".join(distillers) or "no method"
    return f"{settings.student} <- {settings.teacher} ({methods}) on {settings.data}"
