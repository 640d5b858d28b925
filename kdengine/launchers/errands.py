"""Small units to try a launcher with: they take milliseconds, and leave marks that can be counted."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from kdengine.errors import LaunchError

__all__ = ["die_once", "fail", "hold", "hold_once", "mark", "refuse", "threads"]


def mark(file: str) -> None:
    """Append a line to a file."""
    with Path(file).open("a", encoding="utf-8") as opened:
        opened.write("done\n")


def fail(message: str) -> None:
    """Raise an error."""
    raise ValueError(message)


def refuse(message: str) -> None:
    """Raise the error of a worker that is not fit."""
    raise LaunchError(message)


def die_once(file: str) -> None:
    """The first time, leave a mark and be killed; after that, only leave a mark."""
    first = not Path(file).exists()
    mark(file)
    if first:
        os.kill(os.getpid(), signal.SIGKILL)


def hold(file: str) -> None:
    """Write the id of this process into a file and wait to be stopped; then append a line."""
    try:  # whoever waits for the file may stop this process at once
        Path(file).write_text(f"{os.getpid()}\n", encoding="utf-8")
        time.sleep(600)
    except KeyboardInterrupt:
        mark(file)
        raise


def hold_once(file: str) -> None:
    """The first time as :func:`hold`; after that, only append a line."""
    if Path(file).exists():
        mark(file)
    else:
        hold(file)


def threads(file: str) -> None:
    """Write the number of threads that a unit is given into a file."""
    Path(file).write_text(os.environ.get("OMP_NUM_THREADS", ""), encoding="utf-8")
