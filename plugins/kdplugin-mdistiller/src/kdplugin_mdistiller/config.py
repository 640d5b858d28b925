"""The ``cfg`` of a file: defaults of the tree it stands in, and the user's values over them."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kdengine import SettingsError
from kdplugin_mdistiller.facade import NotServed

__all__ = ["Config", "as_tables", "check_known", "defaults_of", "flat", "nested", "overlay"]


class Config(dict[str, Any]):
    """Nested values with attribute access: ``cfg.DKD.ALPHA``.

    Args:
        values: nested tables.
        owner: the method, for errors.
        path: where these values are in the whole.
    """

    def __init__(self, values: Mapping[str, Any], owner: str, path: str = "") -> None:
        super().__init__(
            {
                key: Config(value, owner, f"{path}{key}.") if isinstance(value, Mapping) else value
                for key, value in values.items()
            }
        )
        self.owner = owner
        self.path = path

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)  # copy and pickle ask for these
        return self[name]

    def __missing__(self, name: str) -> Any:
        key = f"{self.path}{name}"
        raise NotServed(
            f"{self.owner} reads cfg.{key}, which has no value: none stands in the engine/cfg.py of the file's tree. Give one: "
            f"-o {self.owner}.cfg.{key}=VALUE."
        )


def defaults_of(file: Path) -> dict[str, Any]:
    """The values of ``engine/cfg.py`` in the tree that a file stands in, or of a ``cfg.py`` beside it; empty without either.

    The file is read, not run: it imports more than its values. Assignments such as ``CFG.DKD.ALPHA = 1.0`` count; what is
    not written out as a value has to come from the user.
    """
    for path in (file.parent.parent / "engine" / "cfg.py", file.parent / "cfg.py"):
        if path.is_file():
            return _values_in(ast.parse(path.read_text(encoding="utf-8")))
    return {}


def _values_in(tree: ast.Module) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            keys = _keys(statement.targets[0])
            value = _literal(statement.value)
            if keys and value is not None:
                values = overlay(values, nested({".".join(keys): value}))
    return values


def _keys(node: ast.expr) -> list[str]:
    """``CFG.DKD.ALPHA`` as ``["DKD", "ALPHA"]``."""
    keys: list[str] = []
    while isinstance(node, ast.Attribute):
        keys.insert(0, node.attr)
        node = node.value
    return keys if isinstance(node, ast.Name) else []


def _literal(node: ast.expr) -> Any:
    """The value that an expression writes out; of a node made by a call, its table; None for anything else."""
    if isinstance(node, ast.Call):
        node = node.args[0] if node.args else ast.Dict([], [])
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None


def as_tables(value: Any) -> Any:
    """A mapping as nested tables.

    Raises:
        ValueError: it is no mapping.
    """
    if isinstance(value, Mapping):
        return nested(value)
    raise ValueError("give its values one by one, each as cfg.KEY=VALUE, such as cfg.DKD.ALPHA=1")


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """``{"DKD.ALPHA": 1}`` as ``{"DKD": {"ALPHA": 1}}``."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        first, dot, rest = str(key).partition(".")
        item = nested({rest: value}) if dot else nested(value) if isinstance(value, Mapping) else value
        result = overlay(result, {first: item})
    return result


def overlay(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Nested tables joined; the second's values win."""
    joined = copy.deepcopy(dict(base))
    for key, value in over.items():
        old = joined.get(key)
        joined[key] = overlay(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return joined


def flat(values: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value with its dotted name."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def check_known(given: Mapping[str, Any], known: set[str], owner: str) -> None:
    """Refuse values under names that the file never reads.

    Args:
        given: nested tables of the user.
        known: dotted names of values and of whole tables that are read.
        owner: the method, for errors.

    Raises:
        SettingsError: lists them.
    """
    allowed = tuple(f"{name}." for name in known)
    unknown = [key for key, _ in flat(given) if not f"{key}.".startswith(allowed)]
    if unknown:
        raise SettingsError(
            "\n".join(
                f"{owner}.cfg.{key}: the file reads no such value. It reads: {', '.join(sorted(known))}." for key in unknown
            )
        )
