"""Progress of runs while they train, on a terminal, in a notebook, or as lines: observers like any other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kdengine.runs.assignment import Assignment

__all__ = ["is_display", "is_shown", "with_progress"]


def with_progress(assignment: Assignment, progress: bool | None, many: bool = False) -> Assignment:
    """An assignment whose runs show their progress on standard error.

    Args:
        assignment: what is asked for.
        progress: True shows it, as lines where there is no terminal; False shows nothing; None shows it on a terminal and in a
            notebook only.
        many: whether many lanes train side by side.
    """
    if not is_shown(progress):
        return assignment
    from kdengine.progress.bar import ProgressBar
    from kdengine.progress.lanes import LanesProgress

    make: Callable[[], object] = LanesProgress if many else ProgressBar
    return replace(assignment, observers=(make(), *assignment.observers))


def is_shown(progress: bool | None) -> bool:
    """Whether progress is shown; None shows it on a terminal and in a notebook only."""
    if progress is None:
        from kdengine.progress.screen import is_watched

        return is_watched()
    return progress


def is_display(observer: object) -> bool:
    """Whether an observer only shows progress, so that nothing is lost without it."""
    from kdengine.progress.bar import ProgressBar
    from kdengine.progress.lanes import LanesProgress

    return isinstance(observer, ProgressBar | LanesProgress)
