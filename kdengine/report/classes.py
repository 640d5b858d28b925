"""The section of a page on the classes of one run: the accuracy of each, and which are taken for which."""

from __future__ import annotations

from kdengine.report.markup import heat_table, table, tag, text
from kdengine.report.pastrun import PastRun
from kdengine.storage.confusion import ConfusionMatrix

__all__ = ["class_section"]

MANY = 25
"""Classes up to which the whole matrix is shown; of more, only the most frequent mistakes are."""
MISTAKES = 30


def class_section(run: PastRun) -> str:
    """A table of the classes and their confusion matrix; empty unless ``kdengine evaluate --per-class`` has counted them.

    Raises:
        StorageError: the file with the counts is damaged.
    """
    kept = ConfusionMatrix.read(run.folder)
    if kept is None:
        return ""
    weights, matrix = kept
    note = tag("p", text(f"Test images; weights: {weights}."), class_="quiet")
    rows = [
        (row["class"], str(row["images"]), _percent(row["accuracy"]), row["confused_with"] or "", str(row["confused"] or ""))
        for row in matrix.per_class()
    ]
    columns = ("class", "images", "accuracy %", "mostly taken for", "so many")
    confused = _whole(matrix) if len(matrix.classes) <= MANY else _worst(matrix)
    return f"<h2>Classes</h2>\n{note}{table(columns, rows, sortable=True)}\n<h2>Confusion</h2>\n{confused}"


def _whole(matrix: ConfusionMatrix) -> str:
    """All cells, in percent of the images of the true class; the more, the deeper in colour."""
    rows = [
        ((name,), [100 * count / sum(counts) if count else None for count in counts])
        for name, counts in zip(matrix.classes, matrix.counts, strict=True)
    ]
    note = "Percent of the images of each class (rows) by the class that they are taken for; an empty cell is none."
    cells = heat_table(["true"], "predicted", list(matrix.classes), rows, "{:.0f}".format)
    return cells + tag("p", text(note), class_="quiet")


def _worst(matrix: ConfusionMatrix) -> str:
    rows = [(true, predicted, str(count)) for true, predicted, count in matrix.mistakes(MISTAKES)]
    note = tag("p", f"The {len(rows)} most frequent mistakes.", class_="quiet")
    return table(("true", "predicted", "images"), rows, sortable=True) + note


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
