"""Colours of plots and pages, on light and on dark backgrounds.

The eight line colours come from a search that maximises the smallest distance between two of them in OKLab, for normal
vision, protanopia and deuteranopia, with a contrast to the background of at least 2.4 (light) and 3.2 (dark).
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["DASHES", "GRID", "GROUND", "INK", "LINES", "MUTED", "PLAIN", "SHADES", "Shade"]


class Shade(NamedTuple):
    """One colour: its name in style sheets, and its values on light and on dark backgrounds."""

    name: str
    light: str
    dark: str


GROUND, INK, MUTED, GRID, PLAIN = "#ffffff", "#1d2126", "#626a73", "#e1e4e8", "#3c3c3e"
LINES = ("#1957d2", "#a14206", "#4d896a", "#98338c", "#37a8ec", "#c49710", "#33017b", "#e58da4")
DASHES = ("-", (0, (5, 2)), (0, (1.2, 1.4)), (0, (7, 2, 1.5, 2)))
"""Once all colours are used, further lines are dashed."""

DARK_LINES = ("#1b71bc", "#ac5102", "#51e674", "#af3b85", "#1bbbf0", "#c49710", "#9e71fd", "#ff77a0")
SHADES = (
    Shade("ground", GROUND, "#15181c"),
    Shade("raised", "#f3f5f7", "#1f242a"),
    Shade("ink", INK, "#e6e8ea"),
    Shade("muted", MUTED, "#9aa3ad"),
    Shade("grid", GRID, "#2d333a"),
    Shade("plain", PLAIN, "#cfd2d6"),
    *(Shade(f"line-{number}", *pair) for number, pair in enumerate(zip(LINES, DARK_LINES, strict=True), 1)),
)
