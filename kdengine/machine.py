"""What the machine offers to this process."""

from __future__ import annotations

import ctypes
import os
import sys

__all__ = ["cores", "keep_freed_memory"]

# of glibc's malloc.h: an option and its largest value
TRIM_THRESHOLD = -1, 2**31 - 1
"""Free memory at the end of the heap that the process gives back, in bytes."""
MMAP_THRESHOLD = -3, 2**25
"""Size from which a block is asked of the system, and given back when it is freed, in bytes."""
OF_THE_USER = ("MALLOC_", "GLIBC_TUNABLES")
"""Beginnings of the variables by which users set how memory is allocated."""


def cores() -> int:
    """The cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # not available on every platform
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def keep_freed_memory() -> bool:
    """Keep memory that is freed for what is allocated next, instead of giving it back; returns whether that was set.

    Every training step allocates and frees the same activations. Whatever goes back to the system in between has to be mapped
    and cleared again, page by page. Only glibc's allocator can be told; what the user has set by the environment stays.
    """
    if sys.platform != "linux" or any(name.startswith(OF_THE_USER) for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(*option) for option in (TRIM_THRESHOLD, MMAP_THRESHOLD))
