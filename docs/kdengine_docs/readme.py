"""The README of an installed distribution: from its source if it is installed from there, else from its metadata."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kdengine.plugins.discovery import canonical

__all__ = ["Readme", "readme_of"]


@dataclass(frozen=True)
class Readme:
    """A README in Markdown.

    Attributes:
        text: without its title.
        title: the first heading, without its marks; empty if there is none.
        folder: where it stands; None if it comes from metadata.
    """

    text: str
    title: str = ""
    folder: Path | None = None

    @classmethod
    def of(cls, text: str, folder: Path | None = None) -> Readme:
        """Split the title off."""
        first, _, rest = text.lstrip().partition("\n")
        if first.startswith("# "):
            return cls(rest.strip() + "\n", first.removeprefix("# ").strip(), folder)
        return cls(text.strip() + "\n", "", folder)


def readme_of(name: str, module: str) -> Readme | None:
    """The README of a distribution, or None if it has none in Markdown.

    Args:
        name: the distribution.
        module: a module of it, by which its source is found; its code is not run.
    """
    return _from_source(name, module) or _from_metadata(name)


def _from_source(name: str, module: str) -> Readme | None:
    """The README beside the ``pyproject.toml`` of that name above the module: newer than what was installed from it."""
    try:
        spec = find_spec(module.partition(":")[0].partition(".")[0])
    except (ImportError, ValueError):
        return None
    origin = spec.origin if spec else None
    for folder in Path(origin).parents if origin else ():
        project = folder / "pyproject.toml"
        if not project.is_file():
            continue
        declared = tomllib.loads(project.read_text(encoding="utf-8")).get("project", {}).get("name", "")
        file = folder / "README.md"
        if canonical(declared) != canonical(name) or not file.is_file():
            return None
        return Readme.of(file.read_text(encoding="utf-8"), folder)
    return None


def _from_metadata(name: str) -> Readme | None:
    try:
        metadata: Any = distribution(name).metadata  # an email message
    except PackageNotFoundError:
        return None
    kind = metadata.get("Description-Content-Type", "")
    text = metadata.get_payload() or metadata.get("Description", "")
    return Readme.of(text) if text.strip() and kind.partition(";")[0].strip() == "text/markdown" else None
