"""The distributions of this repository: the engine, the zoo, and every plugin."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

__all__ = ["ROOT", "Package", "packages"]

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Package:
    """A folder from which a distribution is built.

    Attributes:
        folder: where its ``pyproject.toml`` lies.
    """

    folder: Path

    @property
    def file(self) -> Path:
        """What declares it."""
        return self.folder / "pyproject.toml"

    @cached_property
    def declared(self) -> dict[str, Any]:
        """All that its file says."""
        return tomllib.loads(self.file.read_text(encoding="utf-8"))

    @property
    def project(self) -> dict[str, Any]:
        """Its metadata."""
        return dict(self.declared["project"])

    @property
    def name(self) -> str:
        """Under which it is installed: ``kdplugin-rkd``."""
        return str(self.project["name"])

    @property
    def module(self) -> str:
        """Under which it is imported: ``kdplugin_rkd``."""
        return self.name.replace("-", "_")

    @property
    def version(self) -> str:
        """That of this distribution, which should be that of all."""
        return str(self.project["version"])

    @property
    def requirements(self) -> list[str]:
        """What it needs, and what its extras need."""
        extras = self.project.get("optional-dependencies", {}).values()
        return [*self.project["dependencies"], *(needed for extra in extras for needed in extra)]

    @property
    def built_with(self) -> list[str]:
        """What its builder needs."""
        return list(self.declared["build-system"]["requires"])


def packages(root: Path = ROOT) -> list[Package]:
    """All of them, the engine first."""
    plugins = sorted(file.parent for file in root.glob("plugins/kdplugin-*/pyproject.toml"))
    return [Package(root), Package(root / "zoo"), *map(Package, plugins)]
