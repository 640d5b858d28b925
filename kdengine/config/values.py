"""Plain values of settings: nested tables joined and flattened, TOML files, and assignments such as ``rkd.angle=50``."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdengine.errors import SettingsError

__all__ = ["flat", "merge", "parse_assignment", "read_toml", "split_names"]

DEEPEST = 16
"""Largest number of parts in a dotted name; no option is nested that deep."""


def split_names(value: Any) -> Any:
    """Split text at commas outside brackets: ``"a,b@x=[1,2]"`` is ``("a", "b@x=[1,2]")``; other values are returned as is."""
    if not isinstance(value, str):
        return value
    parts, depth = [""], 0
    for piece in re.split(r"([\[\],])", value):
        depth = max(0, depth + (piece == "[") - (piece == "]"))
        if piece == "," and not depth:
            parts.append("")
        else:
            parts[-1] += piece
    return tuple(part.strip() for part in parts)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge nested mappings; values in the second one win."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a nested mapping to dotted names: ``{"train": {"lr": 0.1}}`` is ``{"train.lr": 0.1}``."""
    named: dict[str, Any] = {}
    for key, value in values.items():
        named.update(flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value})
    return named


def read_toml(path: str | Path) -> dict[str, Any]:
    """The contents of a TOML file.

    Raises:
        SettingsError: the file is missing or not valid TOML.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        inside = Path(path) / "run.toml"
        hint = f" Name the file of settings in it: {inside}" if inside.is_file() else ""
        raise SettingsError(f"Cannot read '{path}': {error.strerror}.{hint}") from None
    except ValueError as error:  # a path that contains a zero byte
        raise SettingsError(f"Cannot read {str(path)!r}: {error}.") from None
    try:
        values = tomllib.loads(content.decode())
        if not _within(values, 2 * DEEPEST):
            raise RecursionError
        return values
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"'{path}' is not valid TOML: {error}.") from None
    except (ValueError, RecursionError):  # beyond the limits of Python
        reason = "a number in it has thousands of digits, or it is nested too deeply"
        raise SettingsError(f"'{path}' is not valid TOML: {reason}.") from None


def _within(value: Any, levels: int) -> bool:
    """Whether tables and lists are nested no deeper than ``levels``."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels >= 0 and all(_within(item, levels - 1) for item in inner)


def parse_assignment(text: str) -> dict[str, Any]:
    """``"rkd.angle=50"`` as ``{"rkd": {"angle": 50}}``; the value is a TOML literal, or else a string.

    Raises:
        SettingsError: there is no ``=``, or the name is empty or has more than :data:`DEEPEST` parts.
    """
    name, sign, value = text.partition("=")
    parts = [part.strip() for part in name.split(".")]
    if not sign or not all(parts) or len(parts) > DEEPEST:
        raise SettingsError(f"'{text}' is not an option. Write METHOD.OPTION=VALUE or train.OPTION=VALUE.")
    nested: Any = _literal(value.strip())
    for part in reversed(parts):
        nested = {part: nested}
    result: dict[str, Any] = nested
    return result


def _literal(text: str) -> Any:
    try:
        values = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):  # not TOML, or more digits or brackets than Python reads
        return text
    return values["value"] if len(values) == 1 else text  # a second line would define another name
