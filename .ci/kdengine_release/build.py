"""Wheels and source distributions of all packages, into one folder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kdengine_release.packages import Package

__all__ = ["BuildError", "build"]

MADE = ("kdengine-*", "kdzoo-*", "kdplugin_*")
KINDS = ("sdist", "wheel")


class BuildError(RuntimeError):
    """A package that cannot be built."""


def build(packages: Sequence[Package], out: Path, kinds: Sequence[str] = KINDS) -> list[Path]:
    """Build all packages; distributions of ours that are in the folder go first, of whatever version.

    Raises:
        BuildError: names the packages that failed, with what their builder said; the others are built.
    """
    out.mkdir(parents=True, exist_ok=True)
    for old in (file for pattern in MADE for file in out.glob(pattern) if file.name.endswith((".whl", ".tar.gz"))):
        old.unlink()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        failures = [said for said in pool.map(lambda package: _failure(package, out.resolve(), kinds), packages) if said]
    if failures:
        raise BuildError("\n\n".join(failures))
    return sorted(file for pattern in MADE for file in out.glob(pattern))


def _failure(package: Package, out: Path, kinds: Sequence[str]) -> str | None:
    """What the builder said, if it failed."""
    targets = [word for kind in kinds for word in ("-t", kind)]
    command = [sys.executable, "-m", "hatchling", "build", *targets, "-d", str(out)]
    done = subprocess.run(command, cwd=package.folder, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else f"{package.folder} cannot be built:\n{(done.stderr or done.stdout).strip()}"
