"""With which settings a run may go on that has begun with others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdengine.config.settings import NEUTRAL, Settings
from kdengine.config.values import flat, merge
from kdengine.errors import SettingsError
from kdengine.plugins.registry import Registry
from kdengine.plugins.selection import checked_settings

__all__ = ["changed_settings"]

FIXED = ("student", "teacher", "methods", "task", "seed", "student_input", "train.optimizer", "train.reset_optimizer")
"""Settings without which the saved state is that of another run."""


def changed_settings(
    stored: Settings, said: Mapping[str, Any], place: Path, registry: Registry, override: bool | None = None
) -> Settings:
    """The settings to go on with.

    Args:
        stored: those of the run.
        said: what is wished otherwise.
        place: the folder of a run or a comparison.
        registry: finds methods.
        override: whether what decides the numbers may be changed too; None where nobody may.

    Raises:
        SettingsError: with every setting that was changed and may not be.
    """
    old = stored.model_dump(mode="json", exclude_none=True)
    wanted = checked_settings(merge(old, said), stored.methods, registry, one_lane=bool(stored.methods))
    before, after = flat(old), flat(wanted.model_dump(mode="json", exclude_none=True))
    changed = [name for name in {**before, **after} if before.get(name) != after.get(name) and name not in NEUTRAL]
    told = "; ".join(f"{name} is {before.get(name, 'not set')}, got {after.get(name, 'nothing')}" for name in changed)
    fixed = [name for name in changed if name in FIXED or name.partition(".")[0] in FIXED]
    if fixed:
        raise SettingsError(
            f"'{place}' was begun otherwise: {told}. Nobody can change {' or '.join(fixed)} in a run that has begun: "
            "leave that out, or begin a new run."
        )
    if changed and override is None:
        raise SettingsError(f"'{place}' was begun otherwise: {told}. Leave that out: all of its lanes are trained alike.")
    if changed and not override:
        raise SettingsError(
            f"'{place}' was begun otherwise: {told}. Leave that out, or go on with the new values by adding --override "
            "(in Python, override=True): the run is then no longer one that its settings alone can repeat."
        )
    return wanted
