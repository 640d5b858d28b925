"""What is wrong with settings, in the words of the one who wrote it: pydantic's findings, one line each."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from kdengine.errors import did_you_mean

__all__ = ["SAID", "faults_in", "shown"]

SAID = "said"
"""Kind of a fault whose message is complete as it stands."""

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
"""What a value of the wrong type must be instead, by pydantic's name of the fault."""

NOTHING = object()
"""Stands where there is no value."""


def faults_in(model: type[BaseModel], values: Mapping[str, Any], errors: Iterable[Any], owner: str = "") -> list[str]:
    """Every fault on a line of its own; what a value of several types could be is told in one.

    Args:
        model: what the values were meant for.
        values: field -> value, as they were given.
        errors: what pydantic found.
        owner: what the names are prefixed with, such as ``rkd``.
    """
    lines: list[str] = []
    complaints: dict[tuple[str, ...], dict[str, str]] = {}
    for error in errors:
        place = _place(error, values)
        name = ".".join([owner, *place] if owner else place)
        if error["type"] == SAID:
            lines.append(str(error["msg"]))
        elif error["type"] == "missing":
            lines.append(f"'{name}' is missing: it must be given.")
        elif error["type"] == "extra_forbidden":
            lines.append(f"There is no option '{name}'. {_remedy(model, place, error['input'])}")
        else:
            subject = f"{name} = {shown(error['input'])}" if place else owner or "settings"
            complaints.setdefault(place, {}).setdefault(_complaint(error), subject)
    return lines + [f"{next(iter(said.values()))}: {_joined(said)}." for said in complaints.values()]


def shown(value: Any) -> str:
    """A value on the scale of a message: what is long is cut in the middle, what is deep at some depth."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # Python does not write numbers of thousands of digits
        return "a number of thousands of digits"


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = 80
_SHORT.maxlevel = 3


def _place(error: Any, values: Any) -> tuple[str, ...]:
    """Where in the file a fault is; pydantic's names for the types of a value that may have several are left out."""
    place = []
    for part in error["loc"]:
        inner = _within(values, part)
        if inner is not NOTHING:
            place.append(str(part))
            values = inner
    return (*place, str(error["loc"][-1])) if error["type"] == "missing" else tuple(place)


def _within(values: Any, part: int | str) -> Any:
    """The part of a table or a list, or NOTHING."""
    if isinstance(values, list | tuple) and isinstance(part, int):
        return values[part] if part < len(values) else NOTHING
    table = dict(values) if isinstance(values, Mapping | BaseModel) else {}
    return table.get(part, NOTHING)


def _complaint(error: Any) -> str:
    """What the value must be, without what pydantic calls it."""
    kind = KINDS.get(error["type"])
    if kind is not None:
        return f"it must be {kind}"
    text = str(error["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ").rstrip(".")
    text = re.sub(r"^Input should ", "it must ", text)
    return re.sub(r"^(?:Tuple|List|String|Dictionary) should (have .*?)(?: after validation.*)?$", r"it must \1", text)


def _joined(complaints: Collection[str]) -> str:
    """``it must be a number or a list``; that it may be a whole number goes without saying there."""
    first, *others = [text for text in complaints if text != f"it must be {WHOLE}" or f"it must be {NUMBER}" not in complaints]
    return " or ".join([first, *(text.removeprefix("it must be ") for text in others)])


def _remedy(model: type[BaseModel], place: Sequence[str], value: object) -> str:
    """The nearest names there are; for what stands in the wrong table, the right one."""
    *tables, name = place
    for table in tables:
        inner = _tables_of(model).get(table)
        if inner is None:
            return f"'{table}' holds no tables."
        model = inner
    allowed = list(model.model_fields)
    elsewhere = [f"'{table}.{name}'" for table, inner in _tables_of(model).items() if name in inner.model_fields]
    if elsewhere:
        return f"Did you mean {' or '.join(elsewhere)}?"
    of_method = isinstance(value, Mapping) and "options" in allowed
    answers = [did_you_mean(name, allowed), f"The options of a method stand in [options.{name}]." if of_method else ""]
    return " ".join(filter(None, answers)) or f"It has {', '.join(allowed)}."


def _tables_of(model: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """The fields that are models themselves."""
    kinds = {name: field.annotation for name, field in model.model_fields.items()}
    return {name: kind for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, BaseModel)}
