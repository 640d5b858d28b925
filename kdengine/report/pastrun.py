"""Runs as recorded in their folders: finished, failed or not yet finished."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from kdengine.config.settings import Settings
from kdengine.errors import SettingsError, StorageError, cause, missing
from kdengine.storage.lane_place import LanePlace
from kdengine.storage.names import PLAIN, TUNING
from kdengine.storage.runfolder import RunFolder
from kdengine.storage.scores import CLASSIFICATION, Scoring

__all__ = ["FAILED", "FINISHED", "UNFINISHED", "PastRun", "find_runs", "natural", "scoring_in"]

FINISHED, UNFINISHED, FAILED = "finished", "unfinished", "failed"


@dataclass(frozen=True)
class PastRun:
    """One run, read from its folder alone.

    Attributes:
        folder: the run folder, as the caller named it.
        settings: from ``run.toml``.
        manifest: from ``manifest.json``; empty if there is none.
        rows: the rows of ``metrics.jsonl``.
        result: from ``result.json``; None unless the run is finished.
        failure: why it failed; None if it did not.
    """

    folder: Path
    settings: Settings
    manifest: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    result: Mapping[str, Any] | None
    failure: str | None

    @classmethod
    def read(cls, folder: Path) -> PastRun:
        """Read the run in a folder.

        Raises:
            SettingsError: the folder holds no run, or its settings are invalid.
            StorageError: one of its files is damaged.
        """
        files = RunFolder(folder)
        try:
            settings = files.settings()
        except SettingsError as error:
            error.add_note(f"in '{folder / 'run.toml'}'")
            raise
        return cls(folder, settings, files.manifest_if_any(), files.metrics(), files.result(), files.failure())

    @classmethod
    def read_among_others(cls, folder: Path) -> PastRun:
        """Read one run of many: one with a damaged file counts as failed, for that reason, and does not hide the others.

        Raises:
            SettingsError: its settings are invalid.
        """
        try:
            return cls.read(folder)
        except StorageError as error:
            files, manifest = RunFolder(folder), {}
            with suppress(StorageError):
                manifest = files.manifest_if_any()
            return cls(folder, files.settings(), manifest, (), None, str(error))

    @property
    def scoring(self) -> Scoring:
        """The measures of its task, as ``result.json`` or else ``manifest.json`` names them.

        Raises:
            StorageError: what they name is damaged.
        """
        try:
            return scoring_in(self.result, self.manifest)
        except StorageError as error:
            error.add_note(f"in '{self.folder}'")
            raise

    @property
    def names_task(self) -> bool:
        """Whether its folder got as far as recording what the run is: until then, its task is unknown."""
        return bool(self.result or self.manifest)

    @property
    def method(self) -> str:
        """Its name in reports: ``fitnet+st``, a composition such as ``multi``, ``plain``, or its label in a comparison."""
        lane = self.rows[0]["lane"] if self.rows else None
        known = (self.result or {}).get("method") or lane or (self.folder.name if self.comparison else None)
        return str(known or "+".join(self.settings.methods) or PLAIN)

    @property
    def comparison(self) -> Path | None:
        """The folder of the comparison that it is a lane of; None if it is none."""
        return None if self._place is None else self._place.comparison

    @property
    def of_student(self) -> str:
        """The label of its student in a comparison of several students; else empty."""
        return "" if self._place is None else self._place.student

    @cached_property
    def _place(self) -> LanePlace | None:
        return LanePlace.of(self.folder)

    @property
    def state(self) -> str:
        """``finished``, ``failed`` or ``unfinished``: still running, or interrupted."""
        if self.result is not None:
            return FINISHED
        return UNFINISHED if self.failure is None else FAILED

    @property
    def news(self) -> str:
        """The state, and the reason of a failure."""
        return f"failed: {' '.join(self.failure.split())}" if self.failure and self.state == FAILED else self.state

    @property
    def warnings(self) -> tuple[str, ...]:
        """Why its numbers mean nothing, as ``result.json`` has it; empty for a run that is not finished."""
        found = (self.result or {}).get("warnings")
        return tuple(map(str, found)) if isinstance(found, list) else ()

    @property
    def data(self) -> Mapping[str, Any]:
        """What is known about its data: ``name``, ``fingerprint`` and numbers of images."""
        known: Mapping[str, Any] = (self.result or self.manifest).get("data") or {}
        return {"name": self.settings.data, **known}

    @property
    def teacher(self) -> Mapping[str, Any] | None:
        """Name and scores of the teacher; None for plain training."""
        teacher: Mapping[str, Any] | None = (self.result or self.manifest).get("teacher")
        return teacher

    @property
    def student_rows(self) -> list[Mapping[str, Any]]:
        """The rows of the student itself, without those of the assistants before it in its chain."""
        if self.result is None:
            return [row for row in self.rows if row.get("network", self.settings.student) == self.settings.student]
        last = len(self.result.get("assistants", ())) + 1
        return [row for row in self.rows if row.get("chain_step", last) == last]

    @property
    def student(self) -> Mapping[str, Any]:
        """Name, scores and sizes of the student; for an unfinished run, what was measured so far."""
        if self.result is not None:
            known: Mapping[str, Any] = self.result["student"]
            return known
        return {"name": self.settings.student, **self.scoring.score(self.student_rows), "epochs": len(self.rows)}


def find_runs(folders: Sequence[str | Path]) -> list[PastRun]:
    """Every run in and below the folders; below each of them in natural order (``trial-2`` before ``trial-10``).

    The probes of learning rates in a comparison are left out. Of several runs, those with a damaged file count as failed.

    Raises:
        SettingsError: a folder does not exist or holds no run.
        StorageError: a file of the only run is damaged.
    """
    named: dict[Path, Path] = {}
    for folder in map(Path, folders):
        for path in _run_folders(folder):
            named.setdefault(path.resolve(), path)
    read = PastRun.read if len(named) == 1 else PastRun.read_among_others
    return [read(path) for path in named.values()]


def scoring_in(*stored: Mapping[str, Any] | None) -> Scoring:
    """The measures of the first mapping that names a task under ``task``; those of classification if none does.

    Args:
        *stored: contents of ``result.json`` or ``manifest.json``.

    Raises:
        StorageError: the entry is damaged.
    """
    task = next((facts["task"] for facts in stored if facts and facts.get("task") is not None), None)
    if task is None:
        return CLASSIFICATION
    try:
        scoring = Scoring.from_dict(task)
    except (AttributeError, LookupError, TypeError) as error:
        raise StorageError(f"The entry 'task' is damaged ({cause(error)}): restore the file, or remove its folder.") from error
    if not scoring.measures:
        raise StorageError("The entry 'task' is damaged (it names no measure): restore the file, or remove its folder.")
    return scoring


def natural(text: str) -> list[tuple[int, str]]:
    """Sort key for names that contain numbers."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", text)]


def _run_folders(folder: Path) -> list[Path]:
    if not os.path.isdir(folder):  # unlike Path.is_dir, False for text that cannot be a path at all
        raise SettingsError(missing("folder", folder))
    if (folder / "run.toml").is_file():
        return [folder]
    below = [file.parent for file in folder.rglob("run.toml") if TUNING not in file.relative_to(folder).parts]
    if not below:
        raise SettingsError(f"'{folder}' holds no run: there is no run.toml in it or below it. Name a run folder or one above.")
    return sorted(below, key=lambda path: [natural(part) for part in path.relative_to(folder).parts])
