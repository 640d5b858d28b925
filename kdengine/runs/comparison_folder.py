"""The folder of a comparison: its name, and the lock on it while its lanes are trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from kdengine.errors import SettingsError, in_shell
from kdengine.runs.lost_lanes import forget_lost
from kdengine.runs.start import Fresh, Resume, Start
from kdengine.runs.students import StudentSpec, name_of_all
from kdengine.storage.locks import FolderLock
from kdengine.storage.names import NOTE
from kdengine.storage.writing import remove_leftovers
from kdengine.training.runtime import Runtime

__all__ = ["check_new", "locked", "proposed_folder"]


def proposed_folder(start: Start, students: Sequence[StudentSpec]) -> Path:
    """The folder that a caller names, or a new one under ``runs/``."""
    if isinstance(start, Resume):
        return start.path
    return start.out or Path("runs") / f"compare-{name_of_all(students)}-{datetime.now():%Y%m%d-%H%M%S}"


def check_new(start: Start, folder: Path) -> None:
    """Refuse a new comparison in a folder that holds one, or a run, which a report would take for the whole of it.

    Raises:
        SettingsError: says how to resume that one.
    """
    if isinstance(start, Fresh) and (folder / NOTE).exists():
        raise SettingsError(
            f"'{folder}' already holds a comparison. Continue it with 'kdengine compare --resume {in_shell(folder)}', "
            "or choose another --out."
        )
    if isinstance(start, Fresh) and (folder / "run.toml").exists():
        raise SettingsError(f"'{folder}' holds a run, so no comparison can be made in it. Choose another --out.")


@contextmanager
def locked(folder: Path, runtime: Runtime) -> Iterator[None]:
    """Create the folder and hold its lock in the main process; lanes that were given up may be tried again.

    Raises:
        SettingsError: another process holds the lock.
        StorageError: the folder cannot be written to.
    """
    if not runtime.is_main:
        yield
        return
    lock = FolderLock(folder)
    lock.take()
    try:
        remove_leftovers(folder)
        forget_lost(folder)
        yield
    finally:
        lock.free()
