"""Progress of runs while they train, on a terminal, in a notebook, or as lines: observers like any other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kdengine.runs.assignment import Assignment

__all__ = ["with_progress"]


def with_progress(assignment: Assignment, progress: bool | None, many: bool = False) -> Assignment:
    """An assignment whose runs show their progress on standard error.

    Args:
        assignment: what is asked for.
        progress: True shows it, as lines where there is no terminal; False shows nothing; None shows it on a terminal and in a
            notebook only.
        many: whether many lanes train side by side.
    """
    if progress is False:
        return assignment
    from kdengine.progress.bar import ProgressBar
    from kdengine.progress.lanes import LanesProgress
    from kdengine.progress.screen import is_watched

    if progress is None and not is_watched():
        return assignment
    make: Callable[[], object] = LanesProgress if many else ProgressBar
    return replace(assignment, observers=(make(), *assignment.observers))
