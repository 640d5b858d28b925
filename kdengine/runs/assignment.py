"""What a caller of the library asks for: settings, and the objects that no settings can hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from kdengine.config.settings import Settings
from kdengine.config.values import merge
from kdengine.data.dataset import Data
from kdengine.data.load import ready
from kdengine.errors import SettingsError
from kdengine.methods.distiller import Distiller
from kdengine.plugins.recipes import recipe_values
from kdengine.plugins.registry import Registry
from kdengine.plugins.selection import checked_settings
from kdengine.runs.session import Loaders, Session

__all__ = ["Assignment", "assign"]

Network = str | nn.Module


@dataclass(frozen=True)
class Assignment:
    """Complete settings, with the modules, methods and data that came as objects.

    Attributes:
        settings: complete and checked.
        registry: finds plugins.
        plugins: methods by name, distribution or file, or distillers.
        modules: ``"student"`` and ``"teacher"``, where the caller gave modules.
        data: a data set of the caller's.
        observers: objects with hooks.
    """

    settings: Settings
    registry: Registry
    plugins: tuple[str | Distiller, ...] = ()
    modules: Mapping[str, nn.Module] = field(default_factory=dict)
    data: Data | None = None
    observers: tuple[object, ...] = ()

    @classmethod
    def complete(
        cls,
        settings: Settings,
        *,
        registry: Registry | None = None,
        modules: Mapping[str, Network | None] | None = None,
        data: Data | None = None,
        observers: Iterable[object] = (),
    ) -> Assignment:
        """From complete settings, as a run folder or the command line has them.

        Args:
            settings: complete.
            registry: finds plugins; a new one by default.
            modules: in place of the networks that the settings name.
            data: in place of what the settings name.
            observers: objects with hooks.
        """
        own = ready(data) if data is not None else None
        return cls(settings, registry or Registry(), settings.methods, _modules(modules or {}), own, tuple(observers))

    def session(self, loaders: Loaders | None = None) -> Session:
        """Data, device and teacher, checked and ready.

        Raises:
            KDError: for whatever the user can fix.
        """
        return Session.open(
            self.settings, self.registry, modules=self.modules, data=self.data, loaders=loaders, observers=self.observers
        )


def assign(
    teacher: Network | None,
    student: Network | None,
    plugins: Iterable[str | Distiller],
    data: str | Data | None,
    *,
    epochs: int | None = None,
    teacher_weights: str | Path | None = None,
    recipe: str | Path | None = None,
    trust: bool = False,
    registry: Registry | None = None,
    observers: Iterable[object] = (),
    **values: Any,
) -> Assignment:
    """The assignment that arguments describe; explicit ones override the recipe.

    Args:
        teacher: a spec or a module, if any.
        student: a spec or a module.
        plugins: methods by name, distribution or file, or distillers.
        data: a data spec or a data set.
        epochs: of the joint phase.
        teacher_weights: file of the teacher's weights.
        recipe: name of a recipe, or a TOML file of settings.
        trust: run the code of others that such a file names.
        registry: finds plugins; a new one by default.
        observers: objects with hooks.
        **values: other settings by name, and any of the ``train`` settings; None where nothing was given.

    Raises:
        KDError: with every fault found.
    """
    if student is None:
        raise SettingsError("There is no student. Name a network to train.")
    registry = registry or Registry()
    chosen = tuple([plugins] if isinstance(plugins, str | Distiller) else plugins)
    top = {name: values.pop(name) for name in list(values) if name in Settings.model_fields}
    train = {**values, **({} if epochs is None else {"epochs": epochs})}
    arguments: dict[str, Any] = {
        "teacher": _name(teacher),
        "student": _name(student),
        "methods": [plugin.name if isinstance(plugin, Distiller) else plugin for plugin in chosen],
        "data": data.name if isinstance(data, Data) else data,
        "teacher_weights": None if teacher_weights is None else str(teacher_weights),
        **top,
        "train": train,
    }
    arguments = {key: value for key, value in arguments.items() if value not in (None, [])}
    base = {} if recipe is None else recipe_values(str(recipe), chosen, registry, trust)
    settings = checked_settings(merge(base, arguments), chosen, registry)
    own = ready(data) if isinstance(data, Data) else None
    modules = _modules({"teacher": teacher, "student": student})
    return Assignment(settings, registry, chosen or settings.methods, modules, own, tuple(observers))


def _modules(networks: Mapping[str, Network | None]) -> dict[str, nn.Module]:
    return {role: network for role, network in networks.items() if isinstance(network, nn.Module)}


def _name(network: Network | None) -> str | None:
    return f"module:{type(network).__name__}" if isinstance(network, nn.Module) else network
