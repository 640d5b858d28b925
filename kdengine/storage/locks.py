"""A lock that lets only one process write into a folder."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

from filelock import FileLock, Timeout

from kdengine.errors import SettingsError, StorageError

__all__ = ["FolderLock", "wait_until_free"]

log = logging.getLogger(__name__)


class FolderLock:
    """A lock on a folder; it is released when the process ends, however it ends.

    Args:
        folder: what to lock; its lock file lies in ``state/``, which is removed once a run is finished.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = FileLock(folder / "state" / "lock", timeout=0)

    def take(self) -> None:
        """Lock the folder; a missing folder is created.

        Raises:
            SettingsError: another process holds the lock.
            StorageError: the folder cannot be written to.
        """
        try:
            (self.folder / "state").mkdir(parents=True, exist_ok=True)
            self._file.acquire()
        except Timeout:
            raise SettingsError(
                f"'{self.folder}' is in use: another process is training into it. Wait for it, or choose another --out."
            ) from None
        except NotImplementedError:
            log.warning("The file system of %s has no locks: make sure that no other process trains into it", self.folder)
        except OSError as error:
            raise StorageError(f"'{self.folder}' cannot be written to: {error.strerror}. Choose another --out.") from error

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._file.is_locked

    def free(self, keep: bool = False) -> None:
        """Unlock the folder if this object holds the lock.

        Args:
            keep: whether to keep ``state/``, because it holds more than the lock file.
        """
        if not self.held:
            return
        if not keep and os.name != "nt":
            shutil.rmtree(
                self.folder / "state", ignore_errors=True
            )  # while the lock is held, so that nobody takes a file that is being removed
        self._file.release(force=True)
        if not keep and os.name == "nt":
            shutil.rmtree(self.folder / "state", ignore_errors=True)


def wait_until_free(folders: Iterable[Path], seconds: float) -> None:
    """Wait until no other process holds the lock of any of the folders, but not longer than so many seconds in all.

    Args:
        folders: the folders; they need not exist.
        seconds: whoever takes a lock after that is told that the folder is in use.
    """
    deadline = time.monotonic() + seconds
    for folder in folders:
        file = folder / "state" / "lock"
        if not file.exists():
            continue
        try:
            with FileLock(file, timeout=max(0.0, deadline - time.monotonic())):
                pass
        except (Timeout, NotImplementedError, OSError):  # in use, without locks, or finished and removed in the meantime
            continue
