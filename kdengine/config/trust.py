"""Run folders and settings files are data: what they name is only imported when their reader trusts their writer."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdengine.errors import SettingsError

__all__ = ["check_trusted", "names_code"]

FACTORY = re.compile(r"(^|[\s,;'\"\[])python:")
"""A spec of something that is imported and called, also inside a list of specs."""


def names_code(values: Mapping[str, Any]) -> list[str]:
    """What in some settings would be imported from a file or module of somebody's own, such as ``data = 'python:a:b'``.

    Installed plugins are named by everybody's settings; a ``python:`` spec and a plugin in a file are not.
    """
    said = [f"{name} = {text!r}" for name, text in _texts(values) if FACTORY.search(text)]
    methods = values.get("methods", ())
    chosen = [methods] if isinstance(methods, str) else methods if isinstance(methods, Sequence) else ()
    return said + [f"method {text!r}" for text in chosen if isinstance(text, str) and _is_file(text)]


def check_trusted(values: Mapping[str, Any], place: str | Path, trust: bool) -> None:
    """Refuse to run what a file names.

    Args:
        values: its settings.
        place: the file.
        trust: whether its writer is trusted.

    Raises:
        SettingsError: it names code, and is not trusted.
    """
    named = [] if trust else names_code(values)
    if named:
        raise SettingsError(
            f"'{place}' names code that would be run here: {', '.join(named)}. Read that code; if you trust it, add --trust "
            "(in Python, trust=True)."
        )


def _is_file(method: str) -> bool:
    head = method if method.endswith(".py") else method.partition(":")[0]
    return head.endswith(".py") or "/" in head or os.sep in head


def _texts(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Every text in nested values, with the dotted name of where it stands."""
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(item, f"{name}.{key}".strip("."))
    elif isinstance(value, Sequence):
        for item in value:
            yield from _texts(item, name)
