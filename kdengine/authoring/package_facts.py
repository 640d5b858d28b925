"""What a package says of itself: in ``pyproject.toml``, or in the metadata of an installed distribution."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from importlib_metadata import Distribution

from kdengine.errors import PluginError, cause
from kdengine.plugins.discovery import GROUP

__all__ = ["PackageFacts"]


@dataclass(frozen=True)
class PackageFacts:
    """Metadata of a package.

    Attributes:
        name: name of the distribution.
        version: its version.
        entries: name of an entry point -> module.
        description: one line.
        licence: the licence that it names.
        readme: the text of its README.
        requires: what it depends on.
        folder: its source; None for an installed one.
    """

    name: str
    version: str
    entries: Mapping[str, str]
    description: str
    licence: str
    readme: str
    requires: tuple[str, ...]
    folder: Path | None = None

    @classmethod
    def of_folder(cls, folder: Path) -> PackageFacts:
        """Read the package in a folder.

        Raises:
            PluginError: it has no readable ``pyproject.toml`` with a project in it.
        """
        file = folder / "pyproject.toml"
        if not file.is_file():
            raise PluginError(
                f"'{folder}' has no pyproject.toml. Name a Python file, the folder of a package, or an installed plugin; "
                "'kdengine new-plugin NAME' writes a package."
            )
        try:
            project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
            name, points = str(project["name"]), project.get("entry-points", {}).get(GROUP, {})
            entries = {entry: str(target) for entry, target in points.items()}
            licence, description = project.get("license", ""), str(project.get("description", ""))
            requires = tuple(map(str, project.get("dependencies", ())))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise PluginError(
                f"'{file}' cannot be read as that of a package: {cause(error)}. It needs [project] and name."
            ) from error
        readme, version = _readme(folder, project.get("readme")), str(project.get("version", ""))
        return cls(name, version, entries, description, _licence(licence), readme, requires, folder)

    @classmethod
    def of_distribution(cls, found: Distribution) -> PackageFacts:
        """Read what is installed."""
        metadata = found.metadata
        entries = {point.name: point.value for point in found.entry_points.select(group=GROUP)}
        licence = str(metadata.get("License-Expression") or metadata.get("License") or "")
        readme = str(metadata.get("Description") or "")
        summary, requires = str(metadata.get("Summary") or ""), tuple(found.requires or ())
        return cls(found.name, found.version, entries, summary, licence, readme, requires)


def _licence(stated: Any) -> str:
    return str(stated.get("text") or stated.get("file") or "") if isinstance(stated, Mapping) else str(stated)


def _readme(folder: Path, stated: Any) -> str:
    name = stated.get("file", "") if isinstance(stated, Mapping) else stated
    file = folder / str(name or "README.md")
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
