"""Whether an error began in code that belongs neither to kdengine nor to an installed package."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path

__all__ = ["is_from_user_code"]

OURS = Path(__file__).parents[1]


def is_from_user_code(error: BaseException) -> bool:
    """Whether a factory, plugin file or module of the user raised one of the errors that led to this one."""
    cause = error.__cause__
    while cause is not None:
        if any(_is_users(frame.f_code.co_filename) for frame, _ in traceback.walk_tb(cause.__traceback__)):
            return True
        cause = cause.__cause__
    return False


def _is_users(file: str) -> bool:
    """Whether a file of source code is the user's; ``<frozen importlib>`` and the like are not."""
    if file.startswith("<"):
        return False
    installed = [Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    return not any(Path(file).is_relative_to(folder) for folder in (OURS, *installed))
