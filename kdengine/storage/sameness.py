"""Whether a run that is resumed or repeated still has the same data, teacher and environment."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdengine.config.values import flat
from kdengine.errors import SettingsError
from kdengine.storage.manifest import differences_that_round, versions

__all__ = ["check_first_weights", "check_same", "warn_of_rounding"]

log = logging.getLogger(__name__)

FIXED = {
    "precision": "precision",
    "data.fingerprint": "data",
    "teacher.fingerprint": "teacher",
    "student_weights.fingerprint": "file of the student's first weights",
}
"""Entries of the manifest that must not change when a run is resumed, with their names in messages."""


def check_same(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path, override: bool) -> None:
    """Refuse to resume a run whose data, teacher or precision changed; warn about differences that only affect rounding.

    Args:
        before: the manifest of the run.
        now: the manifest that the run would get now.
        folder: the run folder.
        override: whether to resume nevertheless.

    Raises:
        SettingsError: lists every such change.
    """
    old, new = flat(before), flat(now)
    changed = [name for name in FIXED if old.get(name) is not None and new.get(name) not in (None, old[name])]
    if changed and not override:
        changes = "; ".join(f"its {FIXED[name]} was {old[name]}, and is now {new[name]}" for name in changed)
        raise SettingsError(
            f"Cannot resume '{folder}' as the same run: {changes}. Restore what changed, or add --override (in Python, "
            "override=True)."
        )
    warn_of_rounding(before, now, f"The run in {folder}")


def check_first_weights(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path, override: bool) -> None:
    """Refuse to begin a run again, of which no state was saved, with a student module that has other weights than at first.

    A module is trained in place: after a run that failed in its first epoch, it is no longer what that run began with.

    Args:
        before: the manifest of the run.
        now: the manifest that the run would get now.
        folder: the run folder.
        override: whether to begin nevertheless.

    Raises:
        SettingsError: the weights differ.
    """
    first = before.get("student_module")
    if first is not None and first != now.get("student_module") and not override:
        raise SettingsError(
            f"Cannot resume '{folder}': it has no saved state, so it would begin again, but the student module has other "
            "weights than it began with (it is trained in place). Give it with its first weights, or start a new run."
        )


def warn_of_rounding(before: Mapping[str, Any], now: Mapping[str, Any], run: str) -> None:
    """Warn about differences from the environment of a run that may change the last digits of its numbers."""
    differences = differences_that_round(before, {"versions": versions(), **now})
    if differences:
        log.warning("%s had another environment (%s), so numbers may differ in their last digits", run, "; ".join(differences))
