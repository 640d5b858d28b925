"""Errors that users can fix: each message states the problem, the value, what is allowed, and the fix."""

from __future__ import annotations

import difflib
import os
import shlex
from collections.abc import Iterable, Sequence

__all__ = [
    "DataError",
    "KDError",
    "LaunchError",
    "ModelError",
    "PluginError",
    "SettingsError",
    "StorageError",
    "TapError",
    "TrainingError",
    "cause",
    "counted",
    "did_you_mean",
    "in_shell",
    "missing",
    "together",
]


class KDError(Exception):
    """Base of all errors that the user can fix; the command line prints the message as one paragraph and exits with 2."""


class SettingsError(KDError):
    """An unknown or invalid option or setting; lists every fault, not only the first."""


class PluginError(KDError):
    """A plugin that is unknown, ambiguous, blocked, or fails to import or register."""


class ModelError(KDError):
    """A network that is unknown, cannot be built, or does not fit the data or its weights."""


class StorageError(KDError):
    """A folder or file that is damaged or cannot be written, for example on a full disk; earlier content is kept."""


class DataError(KDError):
    """Data that is missing, malformed or does not fit the network."""


class TapError(KDError):
    """A tap that matches nothing, is ambiguous, did not fire, or was overwritten."""


class LaunchError(KDError):
    """Work that cannot be carried to other processes: no worker, one that is not fit, or a setup that cannot travel."""


class TrainingError(KDError):
    """A run that cannot continue, for example because its loss is no longer finite."""


def together(faults: Sequence[KDError]) -> KDError:
    """Combine several faults into one error, one per line; a single fault is returned as it is."""
    return faults[0] if len(faults) == 1 else SettingsError("\n".join(dict.fromkeys(map(str, faults))))


def did_you_mean(name: str, allowed: Iterable[str], limit: int = 3) -> str:
    """A sentence offering the nearest allowed names, or an empty string if none is near.

    >>> did_you_mean("angel", ["angle", "distance"])
    "Did you mean 'angle'?"
    """
    near = difflib.get_close_matches(name, sorted(set(allowed)), n=limit, cutoff=0.6)
    if not near:
        return ""
    *others, last = [repr(item) for item in near]
    return f"Did you mean {', '.join(others)} or {last}?" if others else f"Did you mean {last}?"


def cause(error: BaseException) -> str:
    """An error on one line, with its type unless it is a :class:`KDError`."""
    try:
        text = " ".join(str(error).split()) or "no message"
    except Exception:  # even printing an error type of a plugin can fail
        text = "no message"
    return text if isinstance(error, KDError) else f"{type(error).__name__}: {text}"


def counted(count: int, noun: str) -> str:
    """A number of things.

    >>> counted(1, "epoch"), counted(3, "epoch")
    ('1 epoch', '3 epochs')
    """
    return f"{count} {noun}{'' if count == 1 else 's'}"


def in_shell(path: object) -> str:
    """A path as it is written in a command, in quotes if it has blanks in it.

    >>> in_shell("runs/two words")
    "'runs/two words'"
    """
    return shlex.quote(str(path))


def missing(kind: str, path: object) -> str:
    """A sentence saying that a file or folder is not there, and for a relative path, where it was looked for.

    >>> missing("folder", "/data/cifar")
    "There is no folder '/data/cifar'."
    """
    written = os.path.expanduser(str(path))
    where = "" if os.path.isabs(written) else f" in the current folder, '{os.getcwd()}'"
    return f"There is no {kind} '{path}'{where}."
