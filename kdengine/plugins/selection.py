"""Selects the methods of a run and their options."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdengine.config.settings import LOADERS, Settings
from kdengine.config.validation import shown
from kdengine.errors import KDError, SettingsError, did_you_mean, together
from kdengine.methods.checks import check_contract
from kdengine.methods.curriculum import Curriculum
from kdengine.methods.distiller import Distiller
from kdengine.methods.transform import StepTransform
from kdengine.plugins.discovery import check_method
from kdengine.plugins.registry import Registry

__all__ = ["belongs_to", "checked_settings", "choose_distillers", "label_of", "names_of", "plugins_given", "resolved"]


def plugins_given(plugins: Any) -> tuple[str | Distiller, ...]:
    """The methods that a caller gave, one or several: names, files as text or paths, or distillers.

    Raises:
        SettingsError: one of them is something else.
    """
    several: list[Any] = [plugins] if isinstance(plugins, str | Path | Distiller | type) else list(plugins)
    for plugin in several:
        if isinstance(plugin, type) and issubclass(plugin, Distiller):
            raise SettingsError(
                f"The method {plugin.__name__} was given as a class. Give an object of it: {plugin.__name__}()."
            )
        if not isinstance(plugin, str | Path | Distiller):
            raise SettingsError(
                f"{shown(plugin)} is no method. Give the name of one, the path of a plugin file, or an object of a subclass of "
                "kdengine.Distiller."
            )
    return tuple(str(plugin) if isinstance(plugin, Path) else plugin for plugin in several)


def choose_distillers(
    plugins: Iterable[str | Distiller], options: Mapping[str, Mapping[str, object]], registry: Registry
) -> dict[str, Distiller]:
    """The distillers of a lane by id: a method's name, with ``-2`` for its second use.

    Args:
        plugins: method names, distributions, files, or distiller objects.
        options: id -> options, for those selected by name.
        registry: resolves names.

    Raises:
        PluginError: a plugin is unknown, ambiguous or broken, and that is the only fault.
        SettingsError: lists every fault in the plugins and in the options of all methods.
    """
    unresolved: dict[str, KDError] = {}
    chosen = _chosen(plugins, options, registry, unresolved)
    faults = list(unresolved.values())
    unknown = [key for key in options if key not in chosen and not belongs_to(key, unresolved)]
    faults += [SettingsError(_unknown_method(key, chosen)) for key in unknown]
    faults += [SettingsError(_given_as_object(key)) for key in options if isinstance(chosen.get(key), Distiller)]
    made: dict[str, Distiller] = {}
    for key, method in chosen.items():
        try:
            if isinstance(method, Distiller):
                check_method(type(method), "A run takes")
            made[key] = method if isinstance(method, Distiller) else method(**options.get(key, {}))
            check_contract(made[key])
        except KDError as error:
            faults.append(error)
    if faults:
        raise together(faults)
    return made


def checked_settings(values: Mapping[str, Any], plugins: object, registry: Registry, one_lane: bool = True) -> Settings:
    """Settings from plain values; faults in them and in the methods' options are reported together.

    Args:
        values: the settings.
        plugins: methods by name, distribution or file, or distillers; unvalidated if they come from a file.
        registry: resolves names.
        one_lane: whether the methods share a lane. Methods of several lanes are checked later, lane by lane, and here only
            if there are other faults to report.

    Raises:
        KDError: lists every fault.
    """
    faults: list[KDError] = []
    try:
        settings = Settings.checked(values)
    except SettingsError as error:
        faults.append(error)
    chosen = _plugins_in(plugins)
    if chosen and (one_lane or faults):
        try:
            choose_distillers(chosen, _tables_in(values.get("options")), registry)
        except KDError as error:
            faults.append(error)
    if faults:
        raise together(faults)
    return settings


def _plugins_in(given: object) -> list[str | Distiller]:
    """The items that name a method or are one, in an unvalidated list of methods."""
    items = [given] if isinstance(given, str | Distiller) else given if isinstance(given, Iterable) else ()
    return [item for item in items if isinstance(item, str | Distiller)]


def _tables_in(given: object) -> dict[str, Mapping[str, object]]:
    """The valid tables in unvalidated options; the validation of the settings reports the others."""
    tables = given if isinstance(given, Mapping) else {}
    return {key: table for key, table in tables.items() if isinstance(key, str) and isinstance(table, Mapping)}


def resolved(settings: Settings, distillers: Mapping[str, Distiller], own_loaders: bool = False) -> Settings:
    """The settings that a run folder keeps: with every option of every method, so that the run can be repeated.

    Args:
        settings: the settings as given.
        distillers: id -> distiller.
        own_loaders: whether the caller passed data loaders.
    """
    options = {key: distiller.options.model_dump(mode="json", exclude_none=True) for key, distiller in distillers.items()}
    return settings.model_copy(update={"options": options, **({"data": LOADERS} if own_loaders else {})})


def _given_as_object(key: str) -> str:
    return f"There are options for '{key}', which was passed as an object. Pass them to its class instead: {key}(NAME=VALUE)."


def _unknown_method(key: str, chosen: Mapping[str, object]) -> str:
    sections = [*chosen, "train", "teacher_train", "teacher_input", "student_input"]
    near = did_you_mean(key, sections) or f"This run has: {', '.join(sections)}."
    return f"There are options for '{key}', which is not a method of this run. {near}"


def label_of(plugins: Iterable[str | Distiller], registry: Registry) -> str:
    """The label of a lane: the methods and compositions selected, such as ``multi`` or ``fitnet+st``."""
    labels = [_label(plugin, registry) for plugin in plugins]
    return "+".join(label for label in labels if label) or "plain"


def names_of(plugins: Iterable[str | Distiller], registry: Registry) -> set[str]:
    """The names of the methods that some plugins select, including possible companions."""
    selected = [registry.methods(plugin) if isinstance(plugin, str) else [plugin] for plugin in plugins]
    return {name for methods in selected for method in methods for name in (method.name, *_companions(method))}


def belongs_to(key: str, used: Collection[str]) -> bool:
    """Whether the key of some options, such as ``fitnet`` or ``fitnet-2``, belongs to a method in use."""
    name, _, number = key.rpartition("-")
    return key in used or (number.isdigit() and name in used)


def _label(plugin: str | Distiller, registry: Registry) -> str:
    """The label of one selection; empty for an observer."""
    if isinstance(plugin, Distiller):
        return plugin.name
    methods = registry.methods(plugin)
    if not methods:
        return ""
    return methods[0].name if len(methods) == 1 else plugin.rpartition(":")[2]


def _chosen(
    plugins: Iterable[str | Distiller],
    options: Mapping[str, Mapping[str, object]],
    registry: Registry,
    unresolved: dict[str, KDError],
) -> dict[str, type[Distiller] | Distiller]:
    """Methods by id, with their companions if none of them has a loss of its own.

    Errors of plugins that cannot be used are collected in ``unresolved``.
    """
    chosen: dict[str, type[Distiller] | Distiller] = {}
    for plugin in plugins:
        for method in [plugin] if isinstance(plugin, Distiller) else _methods_of(plugin, registry, unresolved):
            uses = sum(other.name == method.name for other in chosen.values())
            chosen[method.name if not uses else f"{method.name}-{uses + 1}"] = method
    active = {key: method for key, method in chosen.items() if _weight(method, options.get(key, {}))}
    if all(map(_companions, active.values())):
        for name in [name for method in active.values() for name in _companions(method)]:
            chosen.update({method.name: method for method in _methods_of(name, registry, unresolved)})
    return chosen


def _methods_of(plugin: str, registry: Registry, unresolved: dict[str, KDError]) -> list[type[Distiller]]:
    try:
        return registry.methods(plugin)
    except KDError as error:
        unresolved[plugin] = error
        return []


def _weight(method: type[Distiller] | Distiller, options: Mapping[str, object]) -> object:
    return method.options.weight if isinstance(method, Distiller) else options.get("weight", 1)


def _companions(method: type[Distiller] | Distiller) -> Sequence[str]:
    """The methods added if no other method of the lane has a loss."""
    kind = method if isinstance(method, type) else type(method)
    return kind.companions if issubclass(kind, Curriculum | StepTransform) else ()
