"""One version for all: where it is written, whether all places agree, and how a new one is written everywhere."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from pathlib import Path

import tomlkit
from packaging.version import Version

from kdengine_release.packages import ROOT, Package, packages
from kdengine_release.requirements import ours, required

__all__ = ["VersionError", "current", "faults", "parsed", "write"]

MODULE = Path("kdengine", "_version.py")
CITATION = Path("CITATION.cff")
CHANGELOG = Path("CHANGELOG.md")
IN_MODULE = re.compile(r'^__version__ = "([^"]*)"$', re.MULTILINE)
IN_CITATION = re.compile(r"^version: (\S+)$", re.MULTILINE)
DATE_IN_CITATION = re.compile(r'^date-released: "[^"]*"$', re.MULTILINE)
UNRELEASED = "## [Unreleased]\n"


class VersionError(ValueError):
    """A version that cannot be released."""


def parsed(text: str) -> Version:
    """A version as releases have it.

    Raises:
        VersionError: if it is not three numbers.
    """
    if not re.fullmatch(r"(0|[1-9]\d*)(\.(0|[1-9]\d*)){2}", text):
        raise VersionError(f"'{text}' is no version of a release: write three numbers, as in 0.2.0, without a 'v'.")
    return Version(text)


def current(root: Path = ROOT) -> Version:
    """What the engine says of itself; the other places are held against it."""
    return parsed(_found(IN_MODULE, root / MODULE))


def faults(root: Path = ROOT, tag: str | None = None) -> list[str]:
    """What disagrees with the engine's version, a line for each place.

    Args:
        root: the repository.
        tag: of the release, ``v0.2.0``; it must name the version, and the changelog must have its heading.
    """
    version = current(root)
    lines = [fault for package in packages(root) for fault in _package_faults(package, version)]
    if (cited := _found(IN_CITATION, root / CITATION)) != str(version):
        lines.append(f"{CITATION}: version {cited}, not {version}")
    if tag is not None:
        lines += [f"the tag {tag} is not v{version}"] if tag != f"v{version}" else []
        headed = f"\n## [{version}] - " in (root / CHANGELOG).read_text(encoding="utf-8")
        lines += [] if headed else [f"{CHANGELOG}: no heading '## [{version}] - DATE'"]
    return lines


def write(version: Version, date: datetime.date, root: Path = ROOT) -> list[Path]:
    """Write a new version everywhere, and what was unreleased in the changelog under it. Gives the files that changed.

    Raises:
        VersionError: if it is not above the current one, or the changelog has nothing for it; then nothing is written.
    """
    if version <= current(root):
        raise VersionError(f"The version is {current(root)}; got {version}. Name a higher one: a release is never made twice.")
    texts = {
        root / CHANGELOG: _changelog(root, version, date),
        root / CITATION: _replaced(IN_CITATION, f"version: {version}", root / CITATION),
        root / MODULE: _replaced(IN_MODULE, f'__version__ = "{version}"', root / MODULE),
        **{package.file: _declared(package, version) for package in packages(root)},
    }
    texts[root / CITATION] = DATE_IN_CITATION.sub(f'date-released: "{date.isoformat()}"', texts[root / CITATION])
    for file, text in texts.items():
        file.write_text(text, encoding="utf-8")
    return list(texts)


def _package_faults(package: Package, version: Version) -> Iterator[str]:
    place = f"{package.name}: pyproject.toml"
    if package.version != str(version):
        yield f"{place}: version {package.version}, not {version}"
    for text in ours(package):
        if text != (wanted := required(text, version)):
            yield f"{place}: requires {text!r}, not {wanted!r}"


def _changelog(root: Path, version: Version, date: datetime.date) -> str:
    before, heading, after = (root / CHANGELOG).read_text(encoding="utf-8").partition(UNRELEASED)
    if not after.partition("\n## ")[0].strip():
        raise VersionError(f"{CHANGELOG} has nothing under '{UNRELEASED.strip()}': write what {version} changes there first.")
    return f"{before}{heading}\n## [{version}] - {date.isoformat()}\n{after}"


def _declared(package: Package, version: Version) -> str:
    """Its ``pyproject.toml`` with the new version, and what it requires of the others; its form and comments stay."""
    document = tomlkit.parse(package.file.read_text(encoding="utf-8"))
    project = document["project"]
    project["version"] = str(version)
    stale = {text: required(text, version) for text in ours(package)}
    for needed in [project["dependencies"], *project.get("optional-dependencies", {}).values()]:
        for index, text in enumerate(needed):
            if text in stale:
                needed[index] = stale[text]
    return tomlkit.dumps(document)


def _found(pattern: re.Pattern[str], file: Path) -> str:
    match = pattern.search(file.read_text(encoding="utf-8"))
    if match is None:
        raise VersionError(f"{file} has no line like {pattern.pattern}")
    return match[1]


def _replaced(pattern: re.Pattern[str], line: str, file: Path) -> str:
    _found(pattern, file)
    return pattern.sub(line, file.read_text(encoding="utf-8"), count=1)
