"""Whether circumstances are those of a run that has begun, or was made before."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdengine.config.settings import flat
from kdengine.errors import SettingsError
from kdengine.storage.manifest import differences_that_round, versions

__all__ = ["check_same", "warn_of_rounding"]

log = logging.getLogger(__name__)

BEGUN_WITH = {"precision": "precision", "data.fingerprint": "data", "teacher.fingerprint": "teacher"}
"""What of a manifest must be the same when a run goes on, and what to call it."""


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
    found = differences_that_round(before, {"versions": versions(), **now})
    if found:
        log.warning(
            "%s had other circumstances: %s. Its numbers may come out otherwise in their last digits", run, "; ".join(found)
        )
