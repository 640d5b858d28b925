"""Figures as files: pictures for the screen, and vector graphics whose text stays text."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdengine.errors import SettingsError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FONTS", "FORMATS", "checked_formats", "format_of", "save_figure"]

FORMATS = ("png", "pdf", "svg")
FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', Arial, sans-serif"
"""Those of the page."""
VECTOR = {"svg.fonttype": "none", "svg.hashsalt": "kdengine", "pdf.fonttype": 42}
"""Text as text in SVG, and in PDF in fonts that journals accept; the same figure gives the same ids."""
UNDATED = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}


def save_figure(figure: Figure, file: str | Path, kind: str) -> None:
    """Write a figure; the same figure gives the same file.

    Args:
        figure: the figure.
        file: what to write, whatever its name ends in.
        kind: ``png``, ``pdf`` or ``svg``.
    """
    import matplotlib

    out = io.BytesIO()
    with matplotlib.rc_context(VECTOR):
        figure.savefig(out, format=kind, metadata=UNDATED.get(kind))
    content = out.getvalue()
    if kind == "svg":
        content = re.sub(r"font-family: [^;\"]*", f"font-family: {FONTS}", content.decode()).encode()
    Path(file).write_bytes(content)


def format_of(file: str) -> str:
    """The format of a figure, by the end of its file's name.

    Raises:
        SettingsError: it is none of those that can be written.
    """
    kind = Path(file).suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        raise SettingsError(f"'{file}' is no figure that can be written. Name a file that ends in .pdf, .svg or .png.")
    return kind


def checked_formats(text: str) -> Sequence[str]:
    """The formats in a list such as ``png,pdf``, each once.

    Raises:
        SettingsError: one of them is unknown, or there is none.
    """
    kinds = tuple(dict.fromkeys(part.strip().lower().removeprefix(".") for part in text.split(",") if part.strip()))
    unknown = [kind for kind in kinds if kind not in FORMATS]
    if unknown or not kinds:
        what = f"'{unknown[0]}' is no format of pictures" if unknown else "No format of pictures is named"
        raise SettingsError(f"{what}. Name some of {', '.join(FORMATS)}, as in --pictures png,pdf.")
    return kinds
