"""A table of image files and their labels."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from torch import Tensor

from kdengine.data.dataset import Data, Split
from kdengine.data.image_files import ImageFiles
from kdengine.data.items import HELD_OUT, data_of, listed, parts_of
from kdengine.data.targets import class_indices, label_marks
from kdengine.errors import DataError, counted, missing

__all__ = ["csv_file"]

FILE, LABEL, LABELS, PART = "file", "label", "labels", "split"
"""Names of the columns."""
SEPARATORS = "|;"
"""What may stand between the labels of an image."""


def csv_file(
    path: str,
    file: str = FILE,
    label: str = "",
    labels: str = "",
    size: Any = None,
    split: Any = None,
    skip_bad: Any = False,
    crop: Any = 1.0,
    interpolation: Any = "bicubic",
) -> Data:
    """Images whose files and labels a table lists.

    Args:
        path: a CSV file in UTF-8 with a header; its files are relative to its folder. A column ``split`` tells the images of
            ``train``, ``val`` and ``test`` apart.
        file: column of the files.
        label: column of the labels, by default ``label``; if any image has several, separated by ``|`` or ``;``, the data is
            multi-label.
        labels: column of the labels of data that is multi-label in any case, by default ``labels``.
        size: rows and columns that images are brought to.
        split: share of the images to hold out for testing, if no row is for that.
        skip_bad: whether images that cannot be read are left out.
        crop: share of the sides of test images that is kept.
        interpolation: how images are resampled.

    Raises:
        DataError: the table is missing or malformed, or an option has no valid value.
    """
    rows, several = _read(path, str(file), str(label), str(labels))
    faults = [f"line {row.line} {fault}" for row in rows if (fault := row.fault(several, skip_bad is True))]
    if faults or not rows:
        what = (
            f"{counted(len(faults), 'row')} of '{path}' cannot be used: {listed(faults)}"
            if rows
            else f"'{path}' lists no images"
        )
        raise DataError(f"{what}. Correct the table.")
    parts = parts_of(f"csv:{path}", _parts(path, rows), split is not None)
    classes, targets, task = _targets(parts, several)
    splits = {
        part: Split(
            targets[part], items=ImageFiles([(row.path, at) for row, at in zip(of, targets[part].tolist(), strict=True)])
        )
        for part, of in parts.items()
    }
    return data_of(path, classes, splits, size, split, skip_bad, crop, interpolation, task)


@dataclass(frozen=True)
class _Row:
    """One image.

    Attributes:
        line: of the table, from 1.
        folder: of the table.
        file: as it is written.
        label: likewise; several with separators between them.
        part: likewise.
    """

    line: int
    folder: Path
    file: str
    label: str
    part: str

    @property
    def path(self) -> str:
        """The file, whatever the working directory."""
        return os.path.join(self.folder, os.path.expanduser(self.file))

    @property
    def labels(self) -> list[str]:
        """All labels."""
        text = self.label
        for mark in SEPARATORS:
            text = text.replace(mark, SEPARATORS[0])
        return [label.strip() for label in text.split(SEPARATORS[0]) if label.strip()]

    def fault(self, several: bool, skip_bad: bool) -> str:
        """What is wrong, in words that follow "line 3"; empty if nothing is."""
        if not self.file:
            return "names no file"
        if not skip_bad and not os.path.isfile(self.path):
            return f"names '{self.file}', which does not exist"
        if not several and not self.labels:
            return "has no label"
        return "" if self.part in ("train", *HELD_OUT) else f"is for '{self.part}', not for train, val or test"


def _read(path: str, file: str, label: str, labels: str) -> tuple[list[_Row], bool]:
    """The rows of a table, and whether images have any number of labels."""
    source = Path(os.path.expanduser(path))
    if not os.path.isfile(source):
        raise DataError(missing("file", path))
    with _as_text(path, source) as opened:
        lines = csv.DictReader(opened, skipinitialspace=True)
        have = [str(name) for name in lines.fieldnames or ()]
        several = bool(labels) or (not label and LABEL not in have and LABELS in have)
        target = labels or label or (LABELS if several else LABEL)
        for column, option in ((file, "file"), (target, "labels" if several else "label")):
            if column not in have:
                names = ", ".join(have) or "none"
                other = [mark for mark in (";", "\t") if len(have) == 1 and mark in have[0]]
                fix = f"Choose one with @{option}=COLUMN." if not other else f"Separate columns by commas, not by {other[0]!r}."
                raise DataError(f"'{path}' has no column '{column}'. {fix} It has {names}.")
        rows = [
            _Row(lines.line_num, source.parent, _cell(line, file), _cell(line, target), _cell(line, PART, "train"))
            for line in lines
        ]
    return rows, several or any(len(row.labels) > 1 for row in rows)


@contextmanager
def _as_text(path: str, source: Path) -> Iterator[TextIO]:
    """The open table.

    Raises:
        DataError: it is not in UTF-8.
    """
    try:
        with open(source, encoding="utf-8-sig", newline="") as opened:
            yield opened
    except UnicodeDecodeError as error:
        raise DataError(f"'{path}' is not in UTF-8 ({error.reason}). Save it as CSV in UTF-8.") from error


def _cell(line: Mapping[str, str | None], column: str, without: str = "") -> str:
    """What a row says in a column; something else if there is no such column, and nothing if the row is too short."""
    return (line.get(column, without) or "").strip()


def _parts(path: str, rows: Sequence[_Row]) -> dict[str, list[_Row]]:
    """The rows of each part."""
    parts: dict[str, list[_Row]] = {}
    for row in rows:
        parts.setdefault(row.part, []).append(row)
    if "train" not in parts:
        raise DataError(f"'{path}' has no images to train on. Write 'train' into the column '{PART}' of some.")
    return parts


def _targets(parts: Mapping[str, Sequence[_Row]], several: bool) -> tuple[tuple[str, ...], dict[str, Tensor], str]:
    """The class names, the targets of each part, and the task that they are for."""
    if several:
        return *label_marks({part: [row.labels for row in rows] for part, rows in parts.items()}), "multilabel"
    written = {part: [row.labels[0] for row in rows] for part, rows in parts.items()}
    whole = all(label.isdecimal() for labels in written.values() for label in labels)
    values = {part: [int(label) if whole else label for label in labels] for part, labels in written.items()}
    return *class_indices(values), "classification"
