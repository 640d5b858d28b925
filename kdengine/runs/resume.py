"""Which settings may change on resume."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdengine.config.settings import NEUTRAL, Settings
from kdengine.config.values import flat, merge
from kdengine.errors import PluginError, SettingsError
from kdengine.methods.distiller import Distiller
from kdengine.plugins.registry import Registry
from kdengine.plugins.selection import checked_settings, choose_distillers
from kdengine.runs.lane_specs import LaneSpec, Methods, lane_specs, name_of

__all__ = ["changed_settings", "check_methods", "lanes_again", "without_objects"]

FIXED = (
    "student",
    "teacher",
    "further_teachers",
    "methods",
    "task",
    "seed",
    "factories",
    "student_input",
    "train.optimizer",
    "train.reset_optimizer",
)
"""Settings that no override may change, because the saved state depends on them."""


def changed_settings(
    stored: Settings,
    changes: Mapping[str, Any],
    folder: Path,
    registry: Registry,
    override: bool | None = None,
    plugins: Sequence[str | Distiller] = (),
) -> Settings:
    """Apply changes to the settings of a run that is to be resumed.

    Args:
        stored: settings of the run.
        changes: settings to change.
        folder: the folder of the run or comparison.
        registry: finds methods.
        override: also allow changes that affect the numbers; None means that such changes are never allowed.
        plugins: its methods, if some are objects.

    Raises:
        SettingsError: lists every changed setting if one of them may not change.
    """
    old = stored.model_dump(mode="json", exclude_none=True)
    wanted = checked_settings(merge(old, changes), plugins or stored.methods, registry, one_lane=bool(stored.methods))
    before, after = flat(old), flat(wanted.model_dump(mode="json", exclude_none=True))
    changed = [name for name in {**before, **after} if before.get(name) != after.get(name) and name not in NEUTRAL]
    listed = "; ".join(f"{name} is {before.get(name, 'not set')}, got {after.get(name, 'nothing')}" for name in changed)
    fixed = [name for name in changed if name in FIXED or name.partition(".")[0] in FIXED]
    if fixed:
        raise SettingsError(
            f"Cannot resume '{folder}': these settings changed: {listed}. A run that has started cannot change "
            f"{' or '.join(fixed)}: leave that out, or start a new run."
        )
    if changed and override is None:
        raise SettingsError(
            f"Cannot resume '{folder}': these settings changed: {listed}. Leave them out: all lanes of a comparison must be "
            "trained with the same settings."
        )
    if changed and not override:
        raise SettingsError(
            f"Cannot resume '{folder}': these settings changed: {listed}. Leave them out, or accept the new values with "
            "--override (in Python, override=True); the run can then no longer be reproduced from its settings alone."
        )
    return wanted


def without_objects(stored: Settings, plugins: Sequence[str | Distiller], folder: Path, registry: Registry) -> Settings:
    """The settings of a run that is to be resumed with methods given as objects, which have their options themselves.

    Args:
        stored: settings of the run.
        plugins: its methods again, in the same order.
        folder: its folder.
        registry: finds those given by name.

    Raises:
        SettingsError: they are other methods, or have other options.
    """
    return stored.model_copy(update={"options": _options_left(stored.methods, stored.options, plugins, folder, registry)})


def lanes_again(stored: Sequence[LaneSpec], methods: Methods, folder: Path, registry: Registry) -> list[LaneSpec]:
    """The lanes of a comparison that is to be resumed, with the methods of some of them given again.

    Args:
        stored: lanes of the comparison.
        methods: of the lanes whose methods are objects; as they were given to the comparison.
        folder: its folder.
        registry: finds methods that were given by name.

    Raises:
        PluginError: a method is not to be found; if it was given as an object, it has to be given again.
        SettingsError: there is no such lane, or it has other methods or other options.
    """
    again = {lane.label: lane.plugins for lane in lane_specs(methods, registry)}
    unknown = sorted(set(again) - {lane.label for lane in stored})
    if unknown:
        known = ", ".join(dict.fromkeys(lane.label for lane in stored))
        raise SettingsError(f"Cannot resume '{folder}': it has no lane {', '.join(unknown)}, but {known}.")
    lanes = []
    for lane in stored:
        if lane.label not in again:
            _check_known(map(str, lane.plugins), registry, "Comparison.resume(FOLDER, methods=[...])")
            lanes.append(lane)
            continue
        plugins, were = again[lane.label], tuple(map(str, lane.plugins))
        lanes.append(replace(lane, plugins=plugins, options=_options_left(were, lane.options, plugins, folder, registry)))
    return lanes


def _options_left(
    methods: tuple[str, ...],
    options: Mapping[str, Mapping[str, Any]],
    plugins: Sequence[str | Distiller],
    folder: Path,
    registry: Registry,
) -> dict[str, Mapping[str, Any]]:
    """The stored options of the methods that are not given as objects again; those of the objects must be the same."""
    names = tuple(name_of(plugin) for plugin in plugins)
    if names != methods:
        raise SettingsError(
            f"Cannot resume '{folder}': its methods are {', '.join(methods) or 'none'}, got {', '.join(names)}. Give the same "
            "methods as before, in the same order."
        )
    given = {key: method for key, method in choose_distillers(plugins, {}, registry).items() if method in plugins}
    for key, method in given.items():
        was, now = options.get(key, {}), method.options.model_dump(mode="json", exclude_none=True)
        changed = [f"{key}.{name} is {was.get(name)}, got {now.get(name)}" for name in now if now[name] != was.get(name)]
        if changed:
            raise SettingsError(f"Cannot resume '{folder}': {'; '.join(changed)}. Give the options that it was started with.")
    return {key: value for key, value in options.items() if key not in given}


def check_methods(stored: Settings, registry: Registry) -> None:
    """Refuse to resume a run without its methods.

    Raises:
        PluginError: one of them is not to be found; if it was given as an object, it has to be given again.
    """
    _check_known(stored.methods, registry, "Engine.resume(FOLDER, plugins=[...])")


def _check_known(methods: Iterable[str], registry: Registry, again: str) -> None:
    for name in methods:
        try:
            registry.methods(name)
        except PluginError as error:
            raise PluginError(f"{error} If an object of a class of your own was given, give it again: {again}.") from error
