"""The folder of a teacher store: what it is for, in ``store.json``, and the files of its batches."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from filelock import FileLock

from kdengine.errors import SettingsError, StorageError
from kdengine.storage.reading import read_json
from kdengine.storage.writing import remove_leftovers, write_json

__all__ = ["FORMAT", "StoreFolder", "taken"]

log = logging.getLogger(__name__)
FORMAT = 1
NOTE = "store.json"
NEEDED = {"format": int, "batches": dict, "seeds": list, "teachers": dict}
BLOCK = 512
"""Bytes of the blocks in which the system counts what a file takes up."""


@dataclass(frozen=True)
class StoreFolder:
    """The files of a teacher store.

    Attributes:
        path: the folder; it need not exist.
    """

    path: Path

    def note(self) -> dict[str, Any]:
        """What the store is for; empty if there is none yet.

        Raises:
            SettingsError: the folder holds something else.
            StorageError: the note is damaged, or of another version of the format.
        """
        if not (self.path / NOTE).is_file():
            self._check_new()
            return {}
        note = read_json(self.path / NOTE, NEEDED)
        if note["format"] != FORMAT:
            raise StorageError(
                f"The teacher store '{self.path}' has the format {note['format']}, but this version of kdengine reads "
                f"{FORMAT}. Name another --teacher-store."
            )
        return note

    def change(self, change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        """Change what the store is for, one process at a time; the folder is created if it does not exist.

        Args:
            change: gets the note, which it may check and change.

        Returns:
            the note as it is now.

        Raises:
            StorageError: the folder cannot be written to.
        """
        note, before = self._changed(change)
        if note == before:
            return note  # nothing to write, so that a store may also be read where it cannot be written
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with self._locked():
                remove_leftovers(self.path)
                note, before = self._changed(change)  # another process may have been faster
                if note != before:
                    write_json(self.path / NOTE, note)
                return note
        except OSError as error:
            raise StorageError(
                f"The teacher store '{self.path}' cannot be written to: {error.strerror}. Name another --teacher-store."
            ) from error

    def epoch_file(self, teacher: str, seed: int, place: str, tap: str) -> Path:
        """The file of one tap of a teacher in one epoch.

        Args:
            teacher: key of the teacher.
            seed: of the batches.
            place: which epoch, view and process.
            tap: name of the tap.
        """
        return self.path / quote(teacher, safe="") / f"seed-{seed}" / place / quote(tap, safe="")

    @property
    def size(self) -> int:
        """Bytes that the folder takes up on the disk."""
        return sum(map(taken, self.path.rglob("*"))) if self.path.is_dir() else 0

    @property
    def free(self) -> int:
        """Bytes that are free on its disk."""
        return shutil.disk_usage(next(folder for folder in (self.path, *self.path.absolute().parents) if folder.exists())).free

    def _changed(self, change: Callable[[dict[str, Any]], None]) -> tuple[dict[str, Any], dict[str, Any]]:
        """What a change makes of the note, and the note."""
        before = self.note()
        note = deepcopy(before)
        change(note)
        return note, before

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock of the folder, if its file system has locks."""
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire()
        except NotImplementedError:
            log.warning("The file system of %s has no locks: let no two processes start on a new store at once", self.path)
        try:
            yield
        finally:
            lock.release()

    def _check_new(self) -> None:
        """Refuse a folder in which something else lies."""
        if self.path.exists() and not self.path.is_dir():
            raise SettingsError(f"--teacher-store '{self.path}' is a file. Name a folder.")
        names = [file.name for file in self.path.iterdir()] if self.path.exists() else []
        # another process may have written the note since it was looked for
        others = [name for name in names if not name.startswith(".") and name != NOTE]
        if others:
            raise SettingsError(
                f"--teacher-store '{self.path}' is no teacher store: it holds '{others[0]}'. Name an empty or a new folder."
            )


def taken(file: Path) -> int:
    """Bytes that a file takes up on the disk; 0 if there is none."""
    try:
        state = file.stat()
    except OSError:
        return 0
    return state.st_blocks * BLOCK if hasattr(state, "st_blocks") else state.st_size
