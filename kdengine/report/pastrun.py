"""Runs as their folders tell of them: finished, failed or not yet finished."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdengine.config.settings import Settings
from kdengine.errors import SettingsError
from kdengine.storage.names import NOTE, PLAIN
from kdengine.storage.runfolder import RunFolder
from kdengine.storage.scores import CLASSIFICATION

__all__ = ["FAILED", "FINISHED", "UNFINISHED", "PastRun", "find_runs", "natural"]

FINISHED, UNFINISHED, FAILED = "finished", "unfinished", "failed"


@dataclass(frozen=True)
class PastRun:
    """One run, read from its folder alone.

    Attributes:
        folder: the run folder, as it was named.
        settings: from ``run.toml``.
        manifest: from ``manifest.json``; empty where the run did not get that far.
        rows: of ``metrics.jsonl``.
        result: of ``result.json``, where the run is finished.
        failure: why it failed, where it did.
    """

    folder: Path
    settings: Settings
    manifest: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    result: Mapping[str, Any] | None
    failure: str | None

    @classmethod
    def read(cls, folder: Path) -> PastRun:
        """The run in a folder.

        Raises:
            SettingsError: the folder holds no run, or its settings are not those of a run.
        """
        place = RunFolder(folder)
        try:
            settings = place.settings()
        except SettingsError as error:
            error.add_note(f"in '{folder / 'run.toml'}'")
            raise
        manifest = place.manifest() if (folder / "manifest.json").is_file() else {}
        return cls(folder, settings, manifest, place.metrics(), place.result(), place.failure())

    @property
    def method(self) -> str:
        """What it is called: ``fitnet+st``, a composition such as ``multi``, ``plain``, or its label in a comparison."""
        lane = self.rows[0]["lane"] if self.rows else None
        known = (self.result or {}).get("method") or lane or (self.folder.name if self.comparison else None)
        return str(known or "+".join(self.settings.methods) or PLAIN)

    @property
    def comparison(self) -> Path | None:
        """The folder of the comparison that it is a lane of."""
        place = self.folder.resolve().parents[1]
        return place if (place / NOTE).is_file() else None

    @property
    def state(self) -> str:
        """``finished``, ``failed`` or ``unfinished``: still running, or interrupted."""
        if self.result is not None:
            return FINISHED
        return UNFINISHED if self.failure is None else FAILED

    @property
    def news(self) -> str:
        """The state, and what failed it."""
        return f"failed: {' '.join(self.failure.split())}" if self.failure and self.state == FAILED else self.state

    @property
    def data(self) -> Mapping[str, Any]:
        """What is known of its data: ``name``, ``fingerprint`` and numbers of images."""
        known: Mapping[str, Any] = (self.result or self.manifest).get("data") or {}
        return {"name": self.settings.data, **known}

    @property
    def teacher(self) -> Mapping[str, Any] | None:
        """Name and accuracy of the teacher."""
        found: Mapping[str, Any] | None = (self.result or self.manifest).get("teacher")
        return found

    @property
    def student_rows(self) -> list[Mapping[str, Any]]:
        """The rows of the student itself, without those of networks that were taught on the way to it."""
        if self.result is None:
            return [row for row in self.rows if row.get("network", self.settings.student) == self.settings.student]
        last = len(self.result.get("assistants", ())) + 1
        return [row for row in self.rows if row.get("link", last) == last]

    @property
    def student(self) -> Mapping[str, Any]:
        """Name, accuracies and sizes of the student; of a run that did not end, what was measured so far."""
        if self.result is not None:
            known: Mapping[str, Any] = self.result["student"]
            return known
        return {"name": self.settings.student, **CLASSIFICATION.score(self.student_rows), "epochs": len(self.rows)}


def find_runs(folders: Sequence[str | Path]) -> list[PastRun]:
    """Every run in and below the folders; below one of them in natural order (``trial-2`` before ``trial-10``).

    Raises:
        SettingsError: there is no run in a folder, or no such folder.
    """
    found: dict[Path, Path] = {}
    for folder in map(Path, folders):
        for path in _run_folders(folder):
            found.setdefault(path.resolve(), path)
    return [PastRun.read(path) for path in found.values()]


def natural(text: str) -> list[tuple[int, str]]:
    """What to sort names with numbers by."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", text)]


def _run_folders(folder: Path) -> list[Path]:
    if not os.path.isdir(folder):  # unlike Path's own, false for what cannot be a path at all
        raise SettingsError(f"There is no folder '{folder}'.")
    if (folder / "run.toml").is_file():
        return [folder]
    below = [file.parent for file in folder.rglob("run.toml")]
    if not below:
        raise SettingsError(f"'{folder}' holds no run: there is no run.toml in it or below it.")
    return sorted(below, key=lambda path: [natural(part) for part in path.relative_to(folder).parts])
