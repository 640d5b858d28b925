"""How often a network takes each class for each other one, as a run folder keeps it for reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdengine.errors import StorageError, cause
from kdengine.storage.reading import read_json
from kdengine.storage.writing import write_json

__all__ = ["CLASSES", "ConfusionMatrix"]

CLASSES = "classes.json"
"""The file of a run folder with one matrix for each set of weights that was evaluated: ``last``, ``best``."""


@dataclass(frozen=True)
class ConfusionMatrix:
    """Counts of test images by their true and their predicted class.

    Attributes:
        classes: names of the K classes.
        counts: K rows of K counts: a row for each true class, a column for each predicted one.
    """

    classes: Sequence[str]
    counts: Sequence[Sequence[int]]

    @classmethod
    def read(cls, folder: Path) -> tuple[str, ConfusionMatrix] | None:
        """The matrix that a run folder keeps, and its weights: ``last`` if there is one; None if it keeps none.

        Raises:
            StorageError: the file is damaged.
        """
        file = folder / CLASSES
        stored = read_json(file) if file.is_file() else {}
        weights = "last" if "last" in stored else next(iter(stored), None)
        if weights is None:
            return None
        try:
            matrix = cls(tuple(stored[weights]["classes"]), [[int(n) for n in row] for row in stored[weights]["confusion"]])
        except (LookupError, TypeError, ValueError) as error:
            raise StorageError(f"'{file}' is damaged ({cause(error)}): remove it, and evaluate --per-class again.") from error
        if {len(matrix.counts), *map(len, matrix.counts)} != {len(matrix.classes)}:
            raise StorageError(f"'{file}' is damaged (the matrix is not square): remove it, and evaluate --per-class again.")
        return weights, matrix

    def keep(self, folder: Path, weights: str) -> None:
        """Store the matrix in a run folder, beside those of other weights.

        Raises:
            StorageError: the file is damaged or cannot be written.
        """
        file = folder / CLASSES
        write_json(file, {**(read_json(file) if file.is_file() else {}), weights: self.to_dict()})

    def to_dict(self) -> dict[str, Any]:
        """Classes and counts as plain data."""
        return {"classes": list(self.classes), "confusion": [list(row) for row in self.counts]}

    def per_class(self) -> list[dict[str, Any]]:
        """For each class its name, its number of images, the percentage recognised, and what it is mostly taken for.

        ``accuracy`` is None for a class without images, ``confused_with`` is None for one that is never mistaken.
        """
        rows = []
        for index, (name, counts) in enumerate(zip(self.classes, self.counts, strict=True)):
            images = sum(counts)
            wrong = {other: count for other, count in enumerate(counts) if other != index and count}
            worst = max(wrong, key=lambda other: wrong[other], default=None)
            rows.append(
                {
                    "class": name,
                    "images": images,
                    "accuracy": 100 * counts[index] / images if images else None,
                    "confused_with": None if worst is None else self.classes[worst],
                    "confused": 0 if worst is None else wrong[worst],
                }
            )
        return rows

    def mistakes(self, limit: int) -> list[tuple[str, str, int]]:
        """The most frequent mistakes, at most ``limit``: true class, predicted class, number of images."""
        pairs = [
            (count, true, predicted)
            for true, row in enumerate(self.counts)
            for predicted, count in enumerate(row)
            if true != predicted and count
        ]
        ranked = sorted(pairs, key=lambda pair: (-pair[0], *pair[1:]))[:limit]
        return [(self.classes[true], self.classes[predicted], count) for count, true, predicted in ranked]
