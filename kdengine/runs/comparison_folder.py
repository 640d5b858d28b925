"""The folder of a comparison: its name, and whether it is free."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from kdengine.errors import SettingsError
from kdengine.runs.start import Fresh, Resume, Start
from kdengine.runs.students import StudentSpec, name_of_all
from kdengine.storage.names import NOTE

__all__ = ["check_new", "proposed_folder"]


def proposed_folder(start: Start, students: Sequence[StudentSpec]) -> Path:
    """The folder that a caller names, or a new one under ``runs/``."""
    if isinstance(start, Resume):
        return start.path
    return start.out or Path("runs") / f"compare-{name_of_all(students)}-{datetime.now():%Y%m%d-%H%M%S}"


def check_new(start: Start, folder: Path) -> None:
    """Refuse a new comparison in a folder that holds one.

    Raises:
        SettingsError: says how to resume that one.
    """
    if isinstance(start, Fresh) and (folder / NOTE).exists():
        raise SettingsError(
            f"'{folder}' already holds a comparison. Continue it with 'kdengine compare --resume {folder}', "
            "or choose another --out."
        )
