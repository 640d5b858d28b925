"""Whether a run may go on: with the settings, the data, the teacher and the precision that it began with."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdengine.errors import SettingsError
from kdengine.manifest import circumstances, differences_that_round
from kdengine.registry import Registry
from kdengine.selection import checked_settings
from kdengine.settings import Settings, flat, merge

__all__ = ["NEUTRAL", "changed_settings", "check_same", "warn_of_rounding"]

log = logging.getLogger(__name__)

FIXED = ("student", "teacher", "methods", "seed", "student_input")
"""Settings without which the saved state is that of another run."""
NEUTRAL = ("train.device", "train.workers", "train.save_minutes")
"""Settings that do not decide what is learnt."""
BEGUN_WITH = {"precision": "precision", "data.fingerprint": "data", "teacher.fingerprint": "weights of the teacher"}
"""What of a manifest must be the same when a run goes on, and what to call it."""


def changed_settings(stored: Settings, said: Mapping[str, Any], place: Path, override: bool, registry: Registry) -> Settings:
    """The settings to go on with.

    Args:
        stored: those of the run.
        said: what is wished otherwise.
        place: the run folder.
        override: whether what decides the numbers may be changed too.
        registry: finds methods.

    Raises:
        SettingsError: with every setting that was changed and may not be.
    """
    old = stored.model_dump(mode="json", exclude_none=True)
    wanted = checked_settings(merge(old, said), stored.methods, registry, one_lane=bool(stored.methods))
    before, after = flat(old), flat(wanted.model_dump(mode="json", exclude_none=True))
    changed = [name for name in {**before, **after} if before.get(name) != after.get(name) and name not in NEUTRAL]
    told = "; ".join(f"{name} is {before.get(name, 'not set')}, got {after.get(name, 'nothing')}" for name in changed)
    fixed = [name for name in changed if name.partition(".")[0] in FIXED]
    if fixed:
        raise SettingsError(
            f"'{place}' was begun otherwise: {told}. Nobody can change {' or '.join(fixed)} in a run that has begun: "
            "leave that out, or begin a new run."
        )
    if changed and not override:
        raise SettingsError(
            f"'{place}' was begun otherwise: {told}. Leave that out, or go on with the new values by adding --override "
            "(in Python, override=True): the run is then no longer one that its settings alone can repeat."
        )
    return wanted


def check_same(before: Mapping[str, Any], now: Mapping[str, Any], place: Path, override: bool) -> None:
    """Refuse to go on under circumstances that make it another run; those that only round otherwise are told.

    Args:
        before: the manifest of the run.
        now: what would be its manifest now.
        place: the run folder.
        override: whether to go on all the same.

    Raises:
        SettingsError: with every such circumstance.
    """
    old, new = flat(before), flat(now)
    changed = [name for name in BEGUN_WITH if old.get(name) is not None and new.get(name) not in (None, old[name])]
    if changed and not override:
        told = "; ".join(f"its {BEGUN_WITH[name]} was {old[name]}, and is now {new[name]}" for name in changed)
        raise SettingsError(
            f"'{place}' cannot go on as the run that it was: {told}. Restore that, or add --override (in Python, "
            "override=True)."
        )
    warn_of_rounding(before, now, f"The run in {place}")


def warn_of_rounding(before: Mapping[str, Any], now: Mapping[str, Any], run: str) -> None:
    """Tell what differs from the circumstances of a run and may change the last digits of its numbers."""
    found = differences_that_round(before, {**circumstances(), **now})
    if found:
        log.warning(
            "%s had other circumstances: %s. Its numbers may come out otherwise in their last digits", run, "; ".join(found)
        )
