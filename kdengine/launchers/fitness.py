"""Whether a machine is fit to work on a job: the same versions, the same disk.

:func:`unfit` must run on machines where kdengine is missing or another version, so it uses nothing but the standard library,
and imports within itself: launchers may send it by its source.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["expectation", "unfit", "unfit_worker"]

PACKAGES = ("kdengine", "kdzoo", "torch", "torchvision", "timm", "numpy")
"""Packages of which driver and workers must have the same version."""


def unfit(expected: Mapping[str, Any]) -> list[str]:
    """What keeps this machine from the work, a phrase for each fault, such as ``lacks kdplugin-rkd 0.1.0``.

    Args:
        expected: ``versions``, a version for each distribution; ``token``, a file with its ``text``, which shows that the disk
            is shared; ``files``, which must exist. All may be left out.
    """
    import os
    from importlib.metadata import PackageNotFoundError, version

    faults = []
    for name, wanted in expected.get("versions", {}).items():
        try:
            here = version(name)
        except PackageNotFoundError:
            faults.append(f"lacks {name} {wanted}")
            continue
        if here.partition("+")[0] != wanted.partition("+")[0]:  # builds for CPU and GPU have the same version
            faults.append(f"has {name} {here}, not {wanted}")
    token = expected.get("token")
    if token is not None:
        try:
            with open(token["path"], encoding="utf-8") as file:
                shared = file.read() == token["text"]
        except OSError:
            shared = False
        if not shared:
            faults.append(f"does not see the folder '{os.path.dirname(token['path'])}' (the disk is not shared)")
            return faults  # what it does not see of the files has the same reason
    faults.extend(f"does not see the file '{path}'" for path in expected.get("files", ()) if not os.path.exists(path))
    return faults


def expectation(distributions: Iterable[str], files: Iterable[str | Path], token: Mapping[str, str] | None) -> dict[str, Any]:
    """What :func:`unfit` takes, with the versions of this process.

    Args:
        distributions: the plugins in use.
        files: files and folders that the units need.
        token: ``path`` and ``text`` of a file in the shared folder.
    """
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for name in dict.fromkeys((*PACKAGES, *distributions)):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue  # what is not installed here is not needed there
    known: dict[str, Any] = {"versions": versions, "files": [str(path) for path in files]}
    return {**known, **({} if token is None else {"token": dict(token)})}


def unfit_worker(where: str, faults: Iterable[str]) -> str:
    """One paragraph on a worker that cannot be used."""
    return (
        f"The worker on '{where}' cannot take part: it {'; it '.join(faults)}. Driver and workers need the same versions of "
        "kdengine, its plugins and torch, and a disk that all of them see under the same path."
    )
