"""What a caller asks for: settings, plus the objects that settings cannot hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdengine.config.factories import NO_FACTORIES, Factories
from kdengine.config.settings import WITHOUT_WEIGHTS, Settings, TrainSettings
from kdengine.config.train_options import TrainOptions
from kdengine.config.validation import shown
from kdengine.config.values import merge
from kdengine.data.dataset import Data
from kdengine.data.load import ready
from kdengine.errors import SettingsError
from kdengine.methods.distiller import Distiller
from kdengine.plugins.recipes import recipe_values
from kdengine.plugins.registry import Registry
from kdengine.plugins.selection import checked_settings, plugins_given
from kdengine.runs.session import Session
from kdengine.runs.source import Loaders
from kdengine.runs.teachers import check_network, networks_given

__all__ = ["Assignment", "RunOptions", "assign", "spec_of"]

Network = str | nn.Module
Teachers = Network | Sequence[Network] | None


class RunOptions(TrainOptions, total=False):
    """The keyword arguments that :class:`kdengine.Engine` and :class:`kdengine.Comparison` share."""

    epochs: int | None
    train: TrainSettings | Mapping[str, Any] | None
    seed: int | None
    student_weights: str | Path | Sequence[str | Path | None] | None
    teacher_weights: str | Path | Sequence[str | Path | None] | None
    teacher_train: Mapping[str, Any] | None
    teacher_input: Mapping[str, Any] | None
    student_input: Mapping[str, Any] | None
    teacher_store: str | Path | Mapping[str, Any] | None
    options: Mapping[str, Mapping[str, Any]] | None
    task: str | None
    recipe: str | Path | None
    trust: bool
    registry: Registry | None
    observers: Iterable[object]
    optimizer: str | Callable[[list[Any]], torch.optim.Optimizer] | None
    scheduler: Callable[[torch.optim.Optimizer], Any] | None


@dataclass(frozen=True)
class Assignment:
    """Complete settings, plus the modules, methods and data that were passed as objects.

    Attributes:
        settings: complete and validated.
        registry: finds plugins.
        plugins: methods, given by name, distribution or file, or as distillers.
        modules: ``"student"``, ``"teacher"``, ``"teacher 2"`` and so on, if passed as modules.
        data: the data set, if passed as an object.
        observers: objects with hooks; of a comparison also names of plugins, until it has selected them.
        factories: what makes optimizer and scheduler, if passed as objects.
    """

    settings: Settings
    registry: Registry
    plugins: tuple[str | Distiller, ...] = ()
    modules: Mapping[str, nn.Module] = field(default_factory=dict)
    data: Data | None = None
    observers: tuple[object, ...] = ()
    factories: Factories = NO_FACTORIES

    @classmethod
    def complete(
        cls,
        settings: Settings,
        *,
        registry: Registry | None = None,
        modules: Mapping[str, Network | None] | None = None,
        data: Data | None = None,
        observers: Iterable[object] = (),
        factories: Factories = NO_FACTORIES,
    ) -> Assignment:
        """Build an assignment from complete settings, such as those of a run folder or the command line.

        Args:
            settings: complete.
            registry: finds plugins; a new one by default.
            modules: replace the networks named in the settings.
            data: replaces the data set named in the settings.
            observers: objects with hooks.
            factories: what makes optimizer and scheduler.
        """
        own = ready(data) if data is not None else None
        return cls(
            settings, registry or Registry(), settings.methods, _modules(modules or {}), own, tuple(observers), factories
        )

    def session(self, loaders: Loaders | None = None) -> Session:
        """Open the session: data, device and teachers, checked and ready.

        Raises:
            KDError: for anything the user can fix.
        """
        self.factories.check(self.settings.factories)
        named = [observer for observer in self.observers if isinstance(observer, str)]
        if named:
            raise SettingsError(
                f"The observer '{named[0]}' was given by name. Name it among the plugins of the run: plugins=['{named[0]}']."
            )
        return Session.open(
            self.settings,
            self.registry,
            modules=self.modules,
            data=self.data,
            loaders=loaders,
            observers=self.observers,
            factories=self.factories,
        )


def assign(
    teacher: Teachers,
    student: Network | None,
    plugins: Iterable[str | Distiller],
    data: str | Data | None,
    *,
    epochs: int | None = None,
    train: TrainSettings | Mapping[str, Any] | None = None,
    teacher_weights: str | Path | Sequence[str | Path | None] | None = None,
    student_weights: str | Path | Sequence[str | Path | None] | None = None,
    recipe: str | Path | None = None,
    trust: bool = False,
    registry: Registry | None = None,
    observers: Iterable[object] = (),
    optimizer: str | Callable[[list[Any]], torch.optim.Optimizer] | None = None,
    scheduler: Callable[[torch.optim.Optimizer], Any] | None = None,
    **values: Any,
) -> Assignment:
    """Build an assignment from arguments; explicit arguments override the recipe.

    Args:
        teacher: a model spec or a module, if any; or several.
        student: a model spec or a module.
        plugins: methods, given by name, distribution or file, or as distillers.
        data: a data spec or a data set.
        epochs: length of the joint phase.
        train: settings of the training, of which those in ``values`` win; only those that were set are taken.
        teacher_weights: path of the teacher's weights; or one for each teacher, None for one that is trained first.
        student_weights: path of weights that the student starts from.
        recipe: name of a recipe, or path of a TOML settings file.
        trust: run third-party code that such a file names.
        registry: finds plugins; a new one by default.
        observers: objects with hooks.
        optimizer: name of an optimizer in timm, or a factory of one.
        scheduler: a factory of a scheduler.
        **values: other settings by name, including any of the ``train`` settings; None means not given.

    Raises:
        KDError: lists every fault in the settings.
    """
    if student is None and recipe is None:
        raise SettingsError("No student was given. Name a network to train.")
    for name, value in (("student", student), ("student_weights", student_weights)):
        if isinstance(value, list | tuple | Mapping):
            raise SettingsError(
                f"{name} = {shown(value)}: a run trains one student. Compare several: Comparison(teacher, [...])."
            )
    check_network(student, "student")
    _check_kinds(data, train)
    registry, teachers = registry or Registry(), networks_given(teacher)
    chosen = plugins_given(plugins)
    factories = Factories(None if isinstance(optimizer, str) else optimizer, scheduler)
    values |= {"optimizer": optimizer} if isinstance(optimizer, str) else {}
    top = {name: values.pop(name) for name in list(values) if name in Settings.model_fields}
    if isinstance(top.get("teacher_store"), str | Path):
        top["teacher_store"] = {"folder": str(top["teacher_store"])}
    given = train.model_dump(exclude_unset=True) if isinstance(train, TrainSettings) else dict(train or {})
    values = {key: str(value) if isinstance(value, torch.device) else value for key, value in values.items()}
    named = {**given, **values, **({} if epochs is None else {"epochs": epochs})}
    arguments: dict[str, Any] = {
        **_teachers(teachers, teacher_weights),
        "student": spec_of(student),
        "methods": [plugin.name if isinstance(plugin, Distiller) else plugin for plugin in chosen],
        "data": data.name if isinstance(data, Data) else data,
        "student_weights": None if student_weights is None else str(student_weights),
        **({"factories": factories.names} if factories.names else {}),
        **top,
        "train": named,
    }
    arguments = {
        key: value for key, value in arguments.items() if value is not None and not (isinstance(value, list) and not value)
    }
    base = {} if recipe is None else recipe_values(str(recipe), chosen, registry, trust)
    settings = checked_settings(merge(base, arguments), chosen, registry)
    own = ready(data) if isinstance(data, Data) else None
    modules = _modules({**teachers, "student": student})
    return Assignment(settings, registry, chosen or settings.methods, modules, own, tuple(observers), factories)


def _check_kinds(data: object, train: object) -> None:
    """Refuse data and train settings that are something else.

    Raises:
        SettingsError: says what to give.
    """
    if not (data is None or isinstance(data, str | Data)):
        raise SettingsError(
            f"data = {shown(data)}: give the name of a data set, or kdengine.Data. Data sets and loaders of torch are passed "
            "to fit(train, test)."
        )
    if not (train is None or isinstance(train, TrainSettings | Mapping)):
        raise SettingsError(f"train = {shown(train)}: give kdengine.TrainSettings or a mapping, such as {{'lr': 0.05}}.")


def _modules(networks: Mapping[str, Network | None]) -> dict[str, nn.Module]:
    return {role: network for role, network in networks.items() if isinstance(network, nn.Module)}


def spec_of(network: Network | None) -> str | None:
    """A network as settings name it; one that was passed as a module by its class."""
    return f"module:{type(network).__name__}" if isinstance(network, nn.Module) else network


def _teachers(networks: Mapping[str, Network], weights: str | Path | Sequence[str | Path | None] | None) -> dict[str, Any]:
    """The settings that name the teachers and their weights."""
    names = [spec_of(network) for network in networks.values()]
    paths = [weights] if weights is None or isinstance(weights, str | Path) else list(weights)
    first, *further = [None if path is None else str(path) for path in paths] or [None]
    given: dict[str, Any] = {"teacher": names[0], "further_teachers": tuple(names[1:])} if names else {}
    given |= {"further_teacher_weights": tuple(path or WITHOUT_WEIGHTS for path in further)} if further or names else {}
    return {**given, "teacher_weights": first}
