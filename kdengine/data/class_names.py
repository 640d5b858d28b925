"""Whether data have the classes that a network was trained for, in the same order."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from kdengine.data.dataset import Data
from kdengine.errors import DataError

__all__ = ["check_class_names"]

SHOWN = 5
"""Differences that a message lists."""


def check_class_names(stored: Sequence[str] | None, data: Data | None, what: str) -> None:
    """Refuse data whose classes are not those that a network was trained for.

    A network knows classes by their numbers alone: with another order or other classes its accuracy is wrong, however well
    the shapes fit.

    Args:
        stored: names of the K classes in the order of their indices, as the run folder keeps them under ``data.classes``;
            None or empty if it keeps none, which passes.
        data: the data to use now; None for the user's own loaders, whose class names are not known, which passes, as do data
            without classes.
        what: what was trained for the stored classes, such as ``"the student of 'runs/a'"``.

    Raises:
        DataError: the names differ, or their order does.
    """
    if not stored or data is None or not data.classes or list(stored) == list(data.classes):
        return
    if sorted(stored) == sorted(data.classes):
        differ = "in another order"
    else:
        differ = f"others ({len(data.classes)} classes, not {len(stored)})" if len(stored) != data.num_classes else "others"
    wrong = [
        f"class {index} is {_name(now)}, not {_name(then)}"
        for index, (then, now) in enumerate(zip_longest(stored, data.classes))
        if then != now
    ]
    more = f", and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
    raise DataError(
        f"The classes of '{data.name}' are {differ} than those that {what} was trained for: {'; '.join(wrong[:SHOWN])}{more}. "
        "A network knows classes by their numbers, so names and order must be the same. Rename the classes of the data, such "
        "as the folders of an imagefolder, or give the data by a python: factory that returns a kdengine.Data with these "
        "classes, and the labels that go with them."
    )


def _name(name: str | None) -> str:
    return "missing" if name is None else f"'{name}'"
