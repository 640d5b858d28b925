"""From labels as they are written to targets: class indices, or 0 and 1 for each label."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from kdengine.errors import DataError

__all__ = ["class_indices", "label_marks"]


def class_indices(
    parts: Mapping[str, Sequence[Any]], names: Sequence[str] | None = None
) -> tuple[tuple[str, ...], dict[str, Tensor]]:
    """One class for each image: the class names, and int64 [N] of each part.

    Args:
        parts: part -> the label of each image; class indices if there are names.
        names: the class names; without them, the classes are the labels of all parts, integers in numerical order, text in
            alphabetical order.
    """
    known, numbers = _numbered([value for values in parts.values() for value in values], names)
    return known, {
        part: torch.tensor([numbers[value] for value in values], dtype=torch.int64) for part, values in parts.items()
    }


def label_marks(
    parts: Mapping[str, Sequence[Sequence[Any]]], names: Sequence[str] | None = None
) -> tuple[tuple[str, ...], dict[str, Tensor]]:
    """Any number of labels for each image: the names of K labels, and 0 and 1, float32 [N, K], of each part.

    Args:
        parts: part -> the labels of each image; indices if there are names.
        names: as for :func:`class_indices`.

    Raises:
        DataError: an index is that of no name.
    """
    values = [value for rows in parts.values() for row in rows for value in row]
    known, numbers = _numbered(values, names)
    wrong = [value for value in values if not 0 <= numbers[value] < len(known)]
    if wrong:
        raise DataError(f"An image has the label {wrong[0]}, but the {len(known)} labels count from 0 to {len(known) - 1}.")
    marks = {part: torch.zeros(len(rows), len(known)) for part, rows in parts.items()}
    for part, rows in parts.items():
        for place, row in enumerate(rows):
            marks[part][place, [numbers[value] for value in row]] = 1.0
    return known, marks


def _numbered(values: Sequence[Any], names: Sequence[str] | None) -> tuple[tuple[str, ...], Mapping[Hashable, int]]:
    """The names of the values, and the index of each."""
    if names is not None:
        return tuple(names), {value: value for value in set(values)}
    found = sorted(set(values))
    return tuple(map(str, found)), {value: number for number, value in enumerate(found)}
