"""Whether other work keeps the processor busy, so that several threads would wait for one another."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from kdengine.machine import cores

__all__ = ["busy_machine"]

LOAD = Path("/proc/loadavg")


def busy_machine(threads: int) -> int | None:
    """The number of threads of others that run now, if ``threads`` of ours do not fit beside them; None if they do.

    The average load of the last minute decides; because it may still count a run that has just ended, Linux is asked what
    runs at this moment too.
    """
    if threads < 2:
        return None
    try:
        load = os.getloadavg()[0]
    except (AttributeError, OSError):  # Windows has none
        return None
    own = cores()
    running = load
    with suppress(OSError, ValueError, IndexError):
        running = min(load, int(LOAD.read_text(encoding="ascii").split()[3].partition("/")[0]) - 1)
    crowded = running + threads > own + max(1.0, own / 4)
    return round(running) if crowded and running >= 1 else None
