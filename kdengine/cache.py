"""The user's cache folder: trained teachers and downloaded data."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_folder"]


def cache_folder(*parts: str) -> Path:
    """A folder in ``$KDENGINE_CACHE`` or, if that is not set, in ``kdengine`` in the user's cache folder; not created."""
    base = os.environ.get("KDENGINE_CACHE")
    if base:
        return Path(base, *parts)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "kdengine", *parts)
