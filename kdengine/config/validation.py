"""The errors of pydantic in the user's terms, one line each."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from kdengine.errors import did_you_mean

__all__ = ["COMPLETE", "faults_in", "shown"]

COMPLETE = "complete"
"""Error type for messages that are complete as they are."""

NUMBER, WHOLE, SWITCH, TEXT, LIST = "a number", "a whole number", "true or false", "text", "a list"
TABLE = "a table of NAME = VALUE"
KINDS = {
    "float_type": NUMBER,
    "float_parsing": NUMBER,
    "int_type": WHOLE,
    "int_parsing": WHOLE,
    "int_parsing_size": "a whole number of fewer digits",
    "int_from_float": WHOLE,
    "bool_type": SWITCH,
    "bool_parsing": SWITCH,
    "string_type": TEXT,
    "tuple_type": LIST,
    "list_type": LIST,
    "dict_type": TABLE,
    "mapping_type": TABLE,
    "model_type": TABLE,
    "none_required": "left out",
}
"""What a value of the wrong type must be instead, by pydantic's type of the error."""

NOTHING = object()
"""Marks a missing value, because None can be a value."""


def faults_in(model: type[BaseModel], values: Mapping[str, Any], errors: Iterable[Any], owner: str = "") -> list[str]:
    """One line for every fault; the alternatives of a value with several types share a line.

    Args:
        model: the model that the values are for.
        values: field -> value, as the user gave them.
        errors: the errors of pydantic.
        owner: prefix of the names, such as ``rkd``.
    """
    lines: list[str] = []
    complaints: dict[tuple[str, ...], dict[str, str]] = {}
    for error in errors:
        path = _path(error, values)
        name = ".".join([owner, *path] if owner else path)
        if error["type"] == COMPLETE:
            lines.append(str(error["msg"]))
        elif error["type"] == "missing":
            lines.append(f"'{name}' is missing: it must be given.")
        elif error["type"] == "extra_forbidden":
            lines.append(f"There is no option '{name}'. {_remedy(model, path, error['input'])}")
        else:
            subject = f"{name} = {shown(error['input'])}" if path else owner or "settings"
            complaints.setdefault(path, {}).setdefault(_complaint(error), subject)
    return lines + [f"{next(iter(texts.values()))}: {_joined(texts)}." for texts in complaints.values()]


def shown(value: Any) -> str:
    """A value, short enough for a message: long values are cut in the middle, nested ones at some depth."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # Python does not print integers of thousands of digits
        return "a number of thousands of digits"


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = 80
_SHORT.maxlevel = 3


def _path(error: Any, values: Any) -> tuple[str, ...]:
    """Where in the file a fault is, without the type names that pydantic inserts for values with several types."""
    path = []
    for part in error["loc"]:
        inner = _within(values, part)
        if inner is not NOTHING:
            path.append(str(part))
            values = inner
    return (*path, str(error["loc"][-1])) if error["type"] == "missing" else tuple(path)


def _within(values: Any, part: int | str) -> Any:
    """One part of a table or a list, or NOTHING."""
    if isinstance(values, list | tuple) and isinstance(part, int):
        return values[part] if part < len(values) else NOTHING
    table = dict(values) if isinstance(values, Mapping | BaseModel) else {}
    return table.get(part, NOTHING)


def _complaint(error: Any) -> str:
    """What the value must be, in our words where pydantic's are technical."""
    kind = KINDS.get(error["type"])
    if kind is not None:
        return f"it must be {kind}"
    text = str(error["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ").rstrip(".")
    text = re.sub(r"^Input should ", "it must ", text)
    return re.sub(r"^(?:Tuple|List|String|Dictionary) should (have .*?)(?: after validation.*)?$", r"it must \1", text)


def _joined(complaints: Collection[str]) -> str:
    """``it must be a number or a list``; "a whole number" is dropped where "a number" is allowed as well."""
    first, *others = [text for text in complaints if text != f"it must be {WHOLE}" or f"it must be {NUMBER}" not in complaints]
    return " or ".join([first, *(text.removeprefix("it must be ") for text in others)])


def _remedy(model: type[BaseModel], path: Sequence[str], value: object) -> str:
    """The nearest valid names; for a name in the wrong table, the right table."""
    *tables, name = path
    for table in tables:
        inner = _tables_of(model).get(table)
        if inner is None:
            return f"'{table}' holds a value, not a table."
        model = inner
    allowed = list(model.model_fields)
    elsewhere = [f"'{table}.{name}'" for table, inner in _tables_of(model).items() if name in inner.model_fields]
    if elsewhere:
        return f"Did you mean {' or '.join(elsewhere)}?"
    of_method = isinstance(value, Mapping) and "options" in allowed
    remedies = [did_you_mean(name, allowed), f"The options of a method belong in [options.{name}]." if of_method else ""]
    return " ".join(filter(None, remedies)) or f"It has {', '.join(allowed)}."


def _tables_of(model: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """The fields that are themselves models."""
    kinds = {name: field.annotation for name, field in model.model_fields.items()}
    return {name: kind for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, BaseModel)}
