"""Which columns of a table hold images and labels, and the classes that the labels make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdengine.errors import DataError, did_you_mean

__all__ = ["Columns"]

LABELS = ("label", "labels")
"""Names of columns that hold labels without being asked for."""
IMAGES = ("binary", "large_binary", "string")
"""Types of columns that hold images, or paths of images, if the user says so."""


@dataclass(frozen=True)
class Columns:
    """The columns of a table of Hugging Face ``datasets`` to learn from.

    Attributes:
        data: what messages call the data.
        image: the column of the images.
        target: the column of the labels: class indices, other integers, or text.
        names: the class names, if the column has some.
    """

    data: str
    image: str
    target: str
    names: tuple[str, ...] | None

    @classmethod
    def of(cls, data: str, features: Mapping[str, Any], image: str, label: str, datasets: Any) -> Columns:
        """Choose the columns.

        Args:
            data: what messages call the data.
            features: column -> kind.
            image: the column that the user wants, or empty.
            label: likewise.
            datasets: the library.

        Raises:
            DataError: there is no such column, or it is unclear which one it is; lists the columns with their kinds.
        """
        images = {column for column, kind in features.items() if isinstance(kind, datasets.Image)}
        named = {column: kind for column, kind in features.items() if isinstance(kind, datasets.ClassLabel)}
        have = f"It has {', '.join(f'{column} ({_kind(kind)})' for column, kind in features.items())}."
        if image and image not in images and not _may_hold_images(features.get(image)):
            near = did_you_mean(image, images)
            raise DataError(f"'{data}' has no column '{image}' of images. {near or 'Choose with @image=COLUMN.'} {have}")
        if not image and not images:
            raise DataError(f"'{data}' has no column of images. Choose one with @image=COLUMN. {have}")
        able = {column for column, kind in features.items() if column in named or _makes_classes(kind)}
        target = label or _target(features, named, able - {image})
        if target not in able:
            choice = f"Choose one of {', '.join(sorted(able))} with @label=COLUMN." if able else ""
            problem = (
                f"no column '{label}' of labels" if label else "no column that must be the labels" if able else "no labels"
            )
            raise DataError(f"'{data}' has {problem}. {choice} {have}".replace("  ", " "))
        names = tuple(named[target].names) if target in named else None
        return cls(data, image or next(column for column in features if column in images), target, names)

    def labelled(self, rows: Any) -> bool:
        """Whether any image of a split has a label; the test images of competitions come with -1 throughout."""
        if self.target not in rows.features:
            return False
        values = rows[self.target]
        return any(value is not None and not (isinstance(value, int) and value < 0) for value in values)

    def classes_of(self, splits: Mapping[str, Any]) -> tuple[tuple[str, ...], dict[str, list[int]]]:
        """The class names, and the class indices of each split.

        Integers are classes in their order, text in that of the alphabet; the classes are those of all splits together.

        Raises:
            DataError: an image has no label.
        """
        columns = {part: list(rows[self.target]) for part, rows in splits.items()}
        for part, values in columns.items():
            missing = sum(value is None for value in values)
            if missing:
                raise DataError(
                    f"'{self.data}': {missing} of {len(values)} rows of '{part}' have no '{self.target}'. Remove them."
                )
        if self.names is not None:
            return self.names, columns
        found = sorted({value for values in columns.values() for value in values})
        numbers = {value: number for number, value in enumerate(found)}
        return tuple(map(str, found)), {part: [numbers[value] for value in values] for part, values in columns.items()}


def _target(features: Mapping[str, Any], named: Mapping[str, Any], able: set[str]) -> str:
    """The column of labels when none is asked for; empty if it is unclear which one it is."""
    usual = [column for column in LABELS if column in able]
    alone: Sequence[str] = list(able) if len(able) == 1 else []
    return next(iter([*usual, *(column for column in features if column in named), *alone]), "")


def _makes_classes(kind: Any) -> bool:
    """Whether the values of a column can be classes: integers, truth values or text."""
    return str(getattr(kind, "dtype", "")).startswith(("int", "uint", "bool", "string", "large_string"))


def _may_hold_images(kind: Any) -> bool:
    return getattr(kind, "dtype", None) in IMAGES or (isinstance(kind, Mapping) and "bytes" in kind)


def _kind(kind: Any) -> str:
    """``Image``, ``ClassLabel``, ``int64``, ``string``."""
    name = type(kind).__name__
    return str(kind.dtype) if name == "Value" else name
