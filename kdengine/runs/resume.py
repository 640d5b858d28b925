"""Which settings may change on resume."""

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
    stored: Settings, changes: Mapping[str, Any], folder: Path, registry: Registry, override: bool | None = None
) -> Settings:
    """Apply changes to the settings of a run that is to be resumed.

    Args:
        stored: settings of the run.
        changes: settings to change.
        folder: the folder of the run or comparison.
        registry: finds methods.
        override: also allow changes that affect the numbers; None means that such changes are never allowed.

    Raises:
        SettingsError: lists every changed setting if one of them may not change.
    """
    old = stored.model_dump(mode="json", exclude_none=True)
    wanted = checked_settings(merge(old, changes), stored.methods, registry, one_lane=bool(stored.methods))
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
