"""Reading the files of a run folder; errors name the damaged file."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from kdengine.errors import StorageError

__all__ = ["read_json", "read_rows"]


def read_json(path: Path, needed: Mapping[str, type] = MappingProxyType({})) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        path: the file.
        needed: required keys, with the types of their values.

    Raises:
        StorageError: the file is missing or damaged.
    """
    content = _parsed(path, _text(path))
    if not isinstance(content, dict):
        raise _damaged(path, f"it must hold an object, not a {type(content).__name__}")
    missing = [name for name, kind in needed.items() if not isinstance(content.get(name), kind)]
    if missing:
        raise _damaged(path, f"it lacks {', '.join(missing)}")
    return content


def read_rows(path: Path, needed: Collection[str] = ()) -> list[dict[str, Any]]:
    """The objects in a file with one JSON object per line; an empty list if there is no file.

    Args:
        path: the file.
        needed: required keys of every object.

    Raises:
        StorageError: the file is damaged.
    """
    lines = _text(path).splitlines() if path.is_file() else []
    rows = [_parsed(path, line) for line in lines if line.strip()]
    if not all(isinstance(row, dict) and set(needed) <= set(row) for row in rows):
        raise _damaged(path, f"each line must be an object with {', '.join(needed) or 'keys'}")
    return rows


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise StorageError(f"'{path}' cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise _damaged(path, str(error)) from error


def _parsed(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, str(error)) from error


def _damaged(path: Path, why: str) -> StorageError:
    return StorageError(
        f"'{path}' is damaged: {why}. kdengine did not write it like this; restore the file, or remove its folder."
    )
