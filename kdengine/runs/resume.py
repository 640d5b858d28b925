"""Which settings may change on resume."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdengine.config.settings import NEUTRAL, Settings
from kdengine.config.values import flat, merge
from kdengine.errors import PluginError, SettingsError
from kdengine.methods.distiller import Distiller
from kdengine.plugins.registry import Registry
from kdengine.plugins.selection import checked_settings, choose_distillers
from kdengine.runs.lane_specs import name_of

__all__ = ["changed_settings", "check_methods", "without_objects"]

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
    names = tuple(name_of(plugin) for plugin in plugins)
    if names != stored.methods:
        raise SettingsError(
            f"Cannot resume '{folder}': its methods are {', '.join(stored.methods) or 'none'}, got {', '.join(names)}. Give "
            "the same methods as before, in the same order."
        )
    given = {key: method for key, method in choose_distillers(plugins, {}, registry).items() if method in plugins}
    for key, method in given.items():
        was, now = stored.options.get(key, {}), method.options.model_dump(mode="json", exclude_none=True)
        changed = [f"{key}.{name} is {was.get(name)}, got {now.get(name)}" for name in now if now[name] != was.get(name)]
        if changed:
            raise SettingsError(f"Cannot resume '{folder}': {'; '.join(changed)}. Give the options that it was started with.")
    return stored.model_copy(update={"options": {key: value for key, value in stored.options.items() if key not in given}})


def check_methods(stored: Settings, registry: Registry) -> None:
    """Refuse to resume a run without its methods.

    Raises:
        PluginError: one of them is not to be found; if it was given as an object, it has to be given again.
    """
    for name in stored.methods:
        try:
            registry.methods(name)
        except PluginError as error:
            raise PluginError(
                f"{error} If the run was given an object of a class of your own, give it again: "
                "Engine.resume(FOLDER, plugins=[...])."
            ) from error
