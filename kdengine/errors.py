"""What can go wrong by a user's hand: each error says what, what it got, what is allowed, and the fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

__all__ = [
    "DataError",
    "KDError",
    "ModelError",
    "PluginError",
    "SettingsError",
    "StorageError",
    "TapError",
    "TrainingError",
    "cause",
    "did_you_mean",
    "together",
]


class KDError(Exception):
    """Base of all errors that the user can mend; the command line prints them as one paragraph and exits with 2."""


class SettingsError(KDError):
    """An unknown or unfit option or setting; lists every fault found, not only the first."""


class PluginError(KDError):
    """A plugin that is unknown, ambiguous, blocked, or fails to import or register."""


class ModelError(KDError):
    """A network that is unknown, cannot be built, or does not fit the data or its weights."""


class StorageError(KDError):
    """A folder or file that cannot be written, such as on a full disk; what was there before is still there."""


class DataError(KDError):
    """Data that is missing, malformed or does not fit the network."""


class TapError(KDError):
    """A tap that names nothing, is ambiguous, did not fire, or was overwritten."""


class TrainingError(KDError):
    """A run that cannot go on, such as one whose loss is no longer finite."""


def together(faults: Sequence[KDError]) -> KDError:
    """Several faults as one error, each on a line of its own; a single one as it is."""
    return faults[0] if len(faults) == 1 else SettingsError("\n".join(dict.fromkeys(map(str, faults))))


def did_you_mean(name: str, allowed: Iterable[str], limit: int = 3) -> str:
    """A sentence offering the nearest allowed names, or an empty string when none is near.

    >>> did_you_mean("angel", ["angle", "distance"])
    "Did you mean 'angle'?"
    """
    near = difflib.get_close_matches(name, sorted(set(allowed)), n=limit, cutoff=0.6)
    if not near:
        return ""
    *others, last = [repr(item) for item in near]
    return f"Did you mean {', '.join(others)} or {last}?" if others else f"Did you mean {last}?"


def cause(error: BaseException) -> str:
    """An error on one line, with its kind unless it is one of ours."""
    try:
        text = " ".join(str(error).split()) or "no message"
    except Exception:  # a plugin's own kind of error may not even print
        text = "no message"
    return text if isinstance(error, KDError) else f"{type(error).__name__}: {text}"
