"""How a run starts: fresh in a folder of its own, or resumed from the state in one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kdengine.config.settings import Settings
from kdengine.errors import SettingsError, cause
from kdengine.runs.run import Run
from kdengine.storage.runfolder import RunFolder
from kdengine.storage.sameness import check_same

__all__ = ["Fresh", "Resume", "Start", "enter", "start_in"]

OF_BATCHES = ("batch_size", "validation", "augment")
"""Train settings that decide which images are in a batch."""


@dataclass(frozen=True)
class Fresh:
    """Start anew.

    Attributes:
        out: the run folder; by default a new one below ``runs/``.
    """

    out: Path | None = None

    def folder(self, name: str, check: bool = True) -> RunFolder:
        """The folder that the run will make.

        Args:
            name: what to call it where none was given.
            check: whether to look if it is free; one process of several does.

        Raises:
            SettingsError: a run already lies there, or it cannot be made.
        """
        folder = RunFolder.default(name) if self.out is None else RunFolder(self.out)
        if check:
            folder.check_new()
        return folder

    def enter(self, run: Run, facts: Mapping[str, Any]) -> None:
        """Make the folder, with its settings and ``facts`` in its manifest."""
        if run.runtime.is_main:
            run.folder.begin(run.settings, facts)
            run.folder.forget_failure()


@dataclass(frozen=True)
class Resume:
    """Continue from the state that was saved last.

    Attributes:
        path: the run folder.
        override: whether it may continue with other data, another teacher or in another precision.
    """

    path: Path
    override: bool = False

    def folder(self, name: str, check: bool = True) -> RunFolder:
        """The folder of the run, whatever it is called."""
        return RunFolder(self.path)

    def enter(self, run: Run, facts: Mapping[str, Any]) -> None:
        """Lock the folder and return the lane to its state; without a saved state it starts at its first step.

        Raises:
            SettingsError: the run is finished, another process trains in its folder, or it cannot continue as what it was.
            StorageError: the state cannot be read.
        """
        folder = run.folder
        if run.runtime.is_main:
            folder.take()
        if folder.result() is not None:
            raise SettingsError(f"The run in '{folder.path}' was finished by another process meanwhile.")
        state = folder.load_state()
        before = folder.manifest() if state else {}
        if state:
            check_same(before, facts, folder.path, self.override)
            _check_place(folder, run.settings, state)
            _load(run, state)
        if not run.runtime.is_main:
            return
        if not state:
            folder.begin(run.settings, facts, fresh=False)
        else:
            if self.override:
                overridden = {"overridden_after_epochs": len(state["history"])}
                folder.write_json("manifest.json", {**before, **facts, **overridden})
            folder.write_settings(run.settings)
        folder.forget_failure()


Start = Fresh | Resume


def enter(run: Run, start: Start, facts: Mapping[str, Any]) -> None:
    """Start a run: its folder is made or locked, and its lane stands where it is to continue.

    Args:
        run: the run.
        start: anew, or from a saved state.
        facts: what the manifest says of the machine, the task, the data and the teacher.

    Raises:
        SettingsError: another run lies in the folder, or is in it, or cannot continue as what it was.
        StorageError: the folder cannot be made, or its state cannot be read.
    """
    try:
        start.enter(run, facts)
    except BaseException:
        run.folder.free()
        raise


def start_in(folder: Path, override: bool = False) -> Start:
    """Resume what lies in a folder, or start anew in it."""
    return Resume(folder, override) if (folder / "run.toml").exists() else Fresh(folder)


def _check_place(folder: RunFolder, new: Settings, state: Mapping[str, Any]) -> None:
    """Refuse to resume within an epoch whose batches would now be other ones."""
    old = folder.settings()
    names = [name for name in OF_BATCHES if getattr(old.train, name) != getattr(new.train, name)]
    names += ["data"] if old.data != new.data else []
    if names and state["meter"]["steps"]:
        raise SettingsError(
            f"'{folder.path}' was stopped within an epoch, in which {' and '.join(names)} cannot be changed: the "
            "rest of its batches would be other ones. Leave that out."
        )


def _load(run: Run, state: Mapping[str, Any]) -> None:
    try:
        run.lane.load_state_dict(state)
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise SettingsError(
            f"The state saved in '{run.folder.path}' does not fit its run ({cause(error)}): it is that of another version "
            "or of other methods. Begin a new run."
        ) from error
