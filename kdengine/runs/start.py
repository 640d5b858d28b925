"""How a run starts: fresh in a new folder, or resumed from a saved state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from kdengine.config.settings import Settings
from kdengine.errors import SettingsError, cause, in_shell
from kdengine.runs.run import Run
from kdengine.runs.whole_state import processes_of, state_of_rank
from kdengine.storage.runfolder import RunFolder
from kdengine.storage.sameness import check_first_weights, check_same
from kdengine.training.runtime import Runtime

__all__ = ["OF_BATCHES", "Fresh", "Resume", "Start", "enter", "start_in"]

OF_BATCHES = (
    "batch_size",
    "validation",
    "augment",
    "augment_operations",
    "augment_magnitude",
    "crop_scale",
    "color_jitter",
    "erase",
    "mixup",
    "cutmix",
    "drop_last",
    "balanced_sampling",
)
"""Train settings that determine which images are in a batch."""


@dataclass(frozen=True)
class Fresh:
    """Start a new run.

    Attributes:
        out: the run folder; by default a new one under ``runs/``.
        override: False, because a new run has nothing to override.
    """

    out: Path | None = None
    override: ClassVar[bool] = False

    def folder(self, name: str, check: bool = True) -> RunFolder:
        """The folder that the run will create.

        Args:
            name: its name if ``out`` is not set.
            check: verify that the folder is free; in a multi-process run, only one process checks.

        Raises:
            SettingsError: the folder already holds a run, or it cannot be created.
        """
        folder = RunFolder.default(name) if self.out is None else RunFolder(self.out)
        if check:
            folder.check_new()
        return folder

    def enter(self, run: Run, facts: Mapping[str, Any]) -> None:
        """Create the folder and write the settings, and ``facts`` to the manifest."""
        run.runtime.from_first(lambda: self._begin(run, facts))

    def _begin(self, run: Run, facts: Mapping[str, Any]) -> None:
        run.folder.begin(run.settings, facts)
        run.folder.forget_failure()


@dataclass(frozen=True)
class Resume:
    """Continue from the last saved state.

    Attributes:
        path: the run folder.
        override: allow different data, a different teacher or a different precision.
    """

    path: Path
    override: bool = False

    def folder(self, name: str, check: bool = True) -> RunFolder:
        """The folder of the run; ``name`` and ``check`` are ignored."""
        return RunFolder(self.path)

    def enter(self, run: Run, facts: Mapping[str, Any]) -> None:
        """Lock the folder and restore the lane; if no state was saved, it starts at its first step.

        Raises:
            SettingsError: the run is finished, another process is using its folder, or something it depends on has changed.
            StorageError: the state cannot be read.
        """
        state, before = run.runtime.from_first(lambda: self._open(run, facts))  # by one, so that all have the same state
        if state:
            _load(run, state)
        run.runtime.from_first(lambda: self._take_over(run, facts, state, before))

    def _open(self, run: Run, facts: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Lock the folder; the state and the manifest in it, checked."""
        folder = run.folder
        folder.take()
        if folder.result() is not None:
            raise SettingsError(
                f"The run in '{folder.path}' was finished by another process in the meantime. Nothing is left to resume."
            )
        state = folder.load_state()
        before = folder.manifest() if state else {}
        if state:
            check_same(before, facts, folder.path, self.override)
            _check_batches(folder, run.settings, state)
            _check_processes(folder, run.runtime, state)
        else:
            check_first_weights(folder.manifest(), facts, folder.path, self.override)
        return state, before

    def _take_over(self, run: Run, facts: Mapping[str, Any], state: Mapping[str, Any], before: Mapping[str, Any]) -> None:
        """Write what is new about the run into its folder."""
        folder = run.folder
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
    """Start a run: create or lock its folder, and restore its lane if it is resumed.

    Args:
        run: the run.
        start: fresh, or from a saved state.
        facts: facts about machine, task, data and teacher for the manifest.

    Raises:
        SettingsError: the folder holds another run or is in use, or something that the run depends on has changed.
        StorageError: the folder cannot be created, or its state cannot be read.
    """
    try:
        start.enter(run, facts)
    except BaseException:
        run.folder.free()
        raise


def start_in(folder: Path, override: bool = False) -> Start:
    """Resume the run in a folder, or start a new one if there is none."""
    return Resume(folder, override) if (folder / "run.toml").exists() else Fresh(folder)


def _check_batches(folder: RunFolder, new: Settings, state: Mapping[str, Any]) -> None:
    """Refuse to resume mid-epoch if the remaining batches would change."""
    old = folder.settings()
    names = [name for name in OF_BATCHES if getattr(old.train, name) != getattr(new.train, name)]
    names += ["data"] if old.data != new.data else []
    if names and state["meter"]["steps"]:
        raise SettingsError(
            f"'{folder.path}' was stopped within an epoch, so {' and '.join(names)} cannot change now: the rest of the "
            "epoch would see different batches. Leave that out."
        )


def _check_processes(folder: RunFolder, runtime: Runtime, state: Mapping[str, Any]) -> None:
    """Refuse to resume mid-epoch with another number of processes: each has drawn and measured for itself."""
    before = processes_of(state)
    if before != runtime.processes and state["meter"]["steps"]:
        command = (
            "without torchrun or srun"
            if before == 1
            else f"over {before}: torchrun --nproc-per-node {before} -m kdengine run --resume {in_shell(folder.path)}"
        )
        raise SettingsError(
            f"'{folder.path}' was stopped within an epoch of {before} process{'es' * (before > 1)}, so their number cannot "
            f"change to {runtime.processes} now. Resume it {command}."
        )


def _load(run: Run, state: Mapping[str, Any]) -> None:
    try:
        run.lane.load_state_dict(state_of_rank(state, run.runtime))
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise SettingsError(
            f"The state saved in '{run.folder.path}' does not match its run ({cause(error)}): it was saved by another version "
            "or with other methods. Start a new run."
        ) from error
