"""What the machine offers to this process."""

from __future__ import annotations

import os

__all__ = ["cores"]


def cores() -> int:
    """The cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # not available on every platform
    return len(affinity(0)) if affinity else os.cpu_count() or 1
