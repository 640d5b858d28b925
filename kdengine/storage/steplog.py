"""The file with the loss terms of single steps."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdengine.errors import StorageError
from kdengine.storage.jsontext import json_text
from kdengine.storage.writing import write_text

__all__ = ["StepLog"]


class StepLog:
    """``steps.jsonl``: a row for every logged step, written as it comes.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def rewind(self, epochs: int, steps: int) -> None:
        """Drop the rows of steps that a resumed run takes again, and a last row that was cut off.

        Args:
            epochs: finished epochs of the state that the run resumes from.
            steps: steps taken in the epoch after them.

        Raises:
            StorageError: the file cannot be written.
        """
        if not self.path.is_file():
            return
        kept = [row for row in self._rows() if (row["epoch"], row["step"]) <= (epochs + 1, steps)]
        write_text(self.path, "".join(json_text(row) + "\n" for row in kept))

    def append(self, row: Mapping[str, Any]) -> None:
        """Write a row with ``epoch``, from 1, and ``step``, from 1 in each epoch.

        Raises:
            StorageError: the file cannot be written.
        """
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json_text(row) + "\n")
        except OSError as error:
            raise StorageError(f"Cannot write '{self.path}': {os.strerror(error.errno or 0)}.") from error

    def _rows(self) -> list[dict[str, Any]]:
        rows = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:  # the run was killed in the middle of this row
                continue
        return rows
