"""Pages that are made: a file that would not change is left alone, so that Sphinx does not read it again."""

from __future__ import annotations

from pathlib import Path

__all__ = ["write_changed"]


def write_changed(file: Path, text: str) -> None:
    """Write a file, unless it holds that text already."""
    if not file.exists() or file.read_text(encoding="utf-8") != text:
        file.write_text(text, encoding="utf-8")
