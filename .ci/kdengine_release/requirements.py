"""What one distribution of this repository requires of another: at least the minor version that they are released with."""

from __future__ import annotations

import re
from collections.abc import Iterator

from packaging.requirements import Requirement
from packaging.version import Version

from kdengine_release.packages import Package

__all__ = ["ours", "required"]

OURS = re.compile(r"(?:kdengine|kdzoo|kdplugin-[a-z0-9-]+)\b")


def ours(package: Package) -> Iterator[str]:
    """Its requirements on other distributions of this repository; extras of its own are none."""
    for text in package.requirements:
        name = Requirement(text).name
        if OURS.fullmatch(name) and name != package.name:
            yield text


def required(text: str, version: Version) -> str:
    """The requirement as a release of that version has it: ``kdplugin-st>=0.1``."""
    requirement = Requirement(text)
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    return f"{requirement.name}{extras}>={version.major}.{version.minor}"
