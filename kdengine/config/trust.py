"""Run folders and settings files are data: code that they name is imported only if the caller trusts their author."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdengine.errors import SettingsError

__all__ = ["check_trusted", "names_code"]

FACTORY = re.compile(r"(^|[\s,;'\"\[])python:")
"""Start of a spec that is imported and called, also within a list of specs."""


def names_code(values: Mapping[str, Any]) -> list[str]:
    """The settings that would import a file or module that is not an installed plugin, such as ``data = 'python:a:b'``.

    Those are ``python:`` specs and plugins in files. Installed plugins are trusted, because the user installed them.
    """
    specs = [f"{name} = {text!r}" for name, text in _texts(values) if FACTORY.search(text)]
    methods = values.get("methods", ())
    listed = [methods] if isinstance(methods, str) else methods if isinstance(methods, Sequence) else ()
    return specs + [f"method {text!r}" for text in listed if isinstance(text, str) and _is_file(text)]


def check_trusted(values: Mapping[str, Any], file: str | Path, trust: bool) -> None:
    """Refuse to run code that a file names.

    Args:
        values: the settings in it.
        file: the file.
        trust: whether its author is trusted.

    Raises:
        SettingsError: the file names code and is not trusted.
    """
    named = [] if trust else names_code(values)
    if named:
        raise SettingsError(
            f"'{file}' names code that would be run here: {', '.join(named)}. Read that code; if you trust it, add --trust "
            "(in Python, trust=True)."
        )


def _is_file(method: str) -> bool:
    """Whether a method is in a file, or made from one by an adapter: ``my_kd.py:mine``, ``mdistiller:folder/DKD.py:DKD``."""
    return any(part.endswith(".py") or "/" in part or os.sep in part for part in method.split(":"))


def _texts(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Every text in nested values, with its dotted name."""
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(item, f"{name}.{key}".strip("."))
    elif isinstance(value, Sequence):
        for item in value:
            yield from _texts(item, name)
