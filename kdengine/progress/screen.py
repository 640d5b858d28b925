"""Where progress is shown: a terminal or a notebook can redraw, anything else gets lines."""

from __future__ import annotations

from importlib.util import find_spec

from rich.console import Console

__all__ = ["can_redraw", "is_watched", "new_console"]


def new_console() -> Console:
    """Standard error; texts are printed as they are."""
    return Console(stderr=True, highlight=False, markup=False)


def is_watched(console: Console | None = None) -> bool:
    """Whether somebody watches: on a terminal or in a notebook."""
    console = console or new_console()
    return console.is_terminal or console.is_jupyter


def can_redraw(console: Console) -> bool:
    """Whether what was drawn can be replaced; in a notebook, rich needs ipywidgets for that."""
    if console.is_jupyter:
        return find_spec("ipywidgets") is not None
    return console.is_terminal and not console.is_dumb_terminal
