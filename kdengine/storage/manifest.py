"""The environment of a run as its folder records it: versions, hardware, the command."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from importlib_metadata import PackageNotFoundError, version

__all__ = ["circumstances", "differences_that_round", "versions"]

PACKAGES = ("kdengine", "kdzoo", "torch", "torchvision", "timm", "lightning-fabric", "numpy")
ROUNDING = ("device_name", "precision", "threads", "processes")
"""Facts that affect the order of summation, and so the last digits of every number."""


def circumstances() -> dict[str, Any]:
    """When and where this process runs, and with which versions."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "argv": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions(),
        "git_commit": _git_commit(),
    }


def versions() -> dict[str, str | None]:
    """Versions of the packages that affect results."""
    return {name: _version(name) for name in PACKAGES}


def differences_that_round(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Differences between two manifests that may affect rounding, such as ``threads: 2, now 1``."""
    pairs = {name: (before.get(name), now.get(name)) for name in ROUNDING}
    old, new = before.get("versions", {}), now.get("versions", {})
    pairs |= {name: (old.get(name), new.get(name)) for name in PACKAGES}
    return [f"{name}: {then}, now {this}" for name, (then, this) in pairs.items() if then != this and None not in (then, this)]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The commit of the git repository in the working directory, if there is one."""
    try:
        git = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return git.stdout.strip() or None
