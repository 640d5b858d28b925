"""The run folder: all files of a run, readable at all times."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import tomli_w
import torch

from kdengine.config.settings import Settings
from kdengine.config.values import read_toml
from kdengine.errors import SettingsError, StorageError, cause, in_shell
from kdengine.storage.jsontext import json_text
from kdengine.storage.locks import FolderLock
from kdengine.storage.manifest import circumstances
from kdengine.storage.names import NOTE, uncompiled
from kdengine.storage.reading import read_json, read_rows
from kdengine.storage.writing import remove_leftovers, write_json, write_state, write_tensors, write_text

__all__ = ["RunFolder", "folder_named"]


class RunFolder:
    """The files of a run.

    Args:
        path: the folder.
        proposed: whether the name may be changed if another run has already taken it.
    """

    def __init__(self, path: str | Path, proposed: bool = False) -> None:
        self.path = Path(path)
        self._proposed = proposed
        self._lock = FolderLock(self.path)

    @classmethod
    def default(cls, name: str) -> RunFolder:
        """A new folder under ``runs/``, named after the run and the time."""
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        return cls(Path("runs") / f"{name}-{stamp}", proposed=True)

    @property
    def state_file(self) -> Path:
        """The state to resume from; exists only while the run is unfinished."""
        return self.path / "state" / "lane.pt"

    def check_new(self) -> None:
        """Refuse a folder that already holds a run or a comparison or cannot be created.

        Raises:
            SettingsError: says how to resume the run, or to choose another folder.
        """
        parent = next(folder for folder in (self.path, *self.path.absolute().parents) if folder.exists())
        if parent != self.path and not (parent.is_dir() and os.access(parent, os.W_OK)):
            raise SettingsError(
                f"Cannot create the run folder '{self.path}': '{parent}' is not a writable folder. Choose another --out."
            )
        if self.path.exists() and not self.path.is_dir():
            raise SettingsError(f"--out '{self.path}' is a file. Name a folder.")
        if (self.path / "run.toml").exists() and not self._proposed:
            if self.is_finished:
                raise SettingsError(f"'{self.path}' already holds a run, which is finished. Choose another --out.")
            raise SettingsError(
                f"'{self.path}' already holds a run. Continue it with 'kdengine run --resume {in_shell(self.path)}', "
                "or choose another --out."
            )
        if (self.path / NOTE).exists():
            raise SettingsError(f"'{self.path}' holds a comparison, so no run can be made in it. Choose another --out.")

    def begin(self, settings: Settings, facts: Mapping[str, Any], fresh: bool = True) -> None:
        """Create the folder with its manifest and its settings, and lock it.

        Args:
            settings: as resolved.
            facts: further entries of the manifest.
            fresh: require that the folder holds no run.

        Raises:
            SettingsError: another run has taken the folder in the meantime, or is using it.
            StorageError: it cannot be created.
        """
        if fresh:
            self.check_new()
        try:
            self._make()
        except OSError as error:
            raise StorageError(
                f"Cannot create the run folder '{self.path}': {error.strerror}. Choose another --out."
            ) from error
        self.take()
        if fresh:
            self.check_new()
        self._proposed = False
        self.write_json("manifest.json", {**circumstances(), **facts})
        self.write_settings(settings)

    def take(self) -> None:
        """Lock the folder, and remove partial files left by a killed process.

        Raises:
            SettingsError: another process is training into it.
        """
        self._lock.take()
        remove_leftovers(self.path)
        remove_leftovers(self.path / "state")

    def free(self) -> None:
        """Unlock the folder, if it was locked here."""
        self._lock.free(keep=self.state_file.exists())

    def _make(self) -> None:
        """Create the folder; if two runs propose the same name at once, the later one appends a number."""
        proposal, number = self.path, 1
        while True:
            try:
                self.path.mkdir(parents=True, exist_ok=not self._proposed)
                return
            except FileExistsError:
                if not self._proposed:
                    raise
            number += 1
            self.path = proposal.with_name(f"{proposal.name}-{number}")
            self._lock = FolderLock(self.path)

    def settings(self) -> Settings:
        """The settings of the run.

        Raises:
            SettingsError: the folder holds no run.
        """
        if not (self.path / "run.toml").is_file():
            raise SettingsError(f"'{self.path}' is not a run folder: it has no run.toml. {self._runs_below()}")
        return Settings.checked(read_toml(self.path / "run.toml"))

    def _runs_below(self) -> str:
        """What to name in place of a folder that is no run: if there are runs in it, the first of them."""
        depths = ("*/run.toml", "*/*/run.toml", "*/*/*/run.toml")  # as deep as a lane of a comparison of several students
        first = next((file.parent for depth in depths for file in sorted(self.path.glob(depth))), None)
        such = "" if first is None else f", such as '{first}'"
        resume = "; a comparison is resumed by 'kdengine compare --resume'" if (self.path / NOTE).is_file() else ""
        return f"Name the folder of a run{such}{resume}."

    def write_settings(self, settings: Settings) -> None:
        """Write ``run.toml``."""
        self.write_text("run.toml", tomli_w.dumps(_without_none(settings.model_dump(mode="json"))))

    def write_text(self, name: str, text: str) -> None:
        """Write a text file atomically."""
        write_text(self.path / name, text)

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Write a JSON file atomically."""
        write_json(self.path / name, value)

    def result(self) -> dict[str, Any] | None:
        """The content of ``result.json``, or None while the run is unfinished."""
        file = self.path / "result.json"
        return read_json(file, needed={"student": dict}) if file.is_file() else None

    def failure(self) -> str | None:
        """Why the lane failed, or None if it did not."""
        file = self.path / "failed.json"
        return str(read_json(file).get("error")) if file.is_file() else None

    @property
    def is_finished(self) -> bool:
        """Whether there is a result."""
        return (self.path / "result.json").is_file()

    @property
    def ended(self) -> bool:
        """Whether the run has finished or failed."""
        return self.result() is not None or self.failure() is not None

    def forget_failure(self) -> None:
        """Clear the failure so that the run can be retried."""
        (self.path / "failed.json").unlink(missing_ok=True)

    def manifest(self) -> dict[str, Any]:
        """The content of ``manifest.json``: versions, hardware, task, data and teacher."""
        return read_json(self.path / "manifest.json")

    def manifest_if_any(self) -> dict[str, Any]:
        """The same; empty if there is none, as in a run that failed at once."""
        return self.manifest() if (self.path / "manifest.json").is_file() else {}

    def metrics(self) -> list[dict[str, Any]]:
        """The rows of ``metrics.jsonl``."""
        return read_rows(self.path / "metrics.jsonl", needed=("lane", "epoch"))

    def write_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write ``metrics.jsonl``, one row per line."""
        self.write_text("metrics.jsonl", "".join(f"{json_text(row)}\n" for row in rows))

    def write_weights(self, name: str, tensors: Mapping[str, Any]) -> None:
        """Write a safetensors file; what ``torch.compile`` adds to the names of a module's tensors is left out."""
        write_tensors(self.path / name, {uncompiled(key): tensor for key, tensor in tensors.items()})

    def write_state(self, state: Mapping[str, Any], check: bool = False) -> None:
        """Save the state to resume from.

        Args:
            state: tensors and plain data.
            check: read it back, to detect a state that cannot be loaded now rather than on resume.

        Raises:
            StorageError: it cannot be written or read back.
        """
        write_state(self.state_file, state)
        if check:
            self._check_state()

    def _check_state(self) -> None:
        try:
            torch.load(self.state_file, map_location="cpu", weights_only=True)
        except Exception as error:
            self.state_file.unlink()
            raise StorageError(
                f"The run '{self.path.name}' could not be resumed later: a state dict of its networks or methods holds "
                f"more than tensors and plain data ({cause(error)[:200]}). Keep state in buffers."
            ) from error

    def forget_state(self) -> None:
        """Delete the saved state, which only a resumed run needs."""
        self.state_file.unlink(missing_ok=True)

    def load_state(self) -> dict[str, Any]:
        """The saved state of the lane; empty if none was saved yet.

        Raises:
            StorageError: it is damaged.
        """
        if not self.state_file.is_file():
            return {}
        try:
            state: dict[str, Any] = torch.load(self.state_file, map_location="cpu", weights_only=True)
        except Exception as error:  # the type of the error depends on the kind of damage
            raise StorageError(
                f"The saved state '{self.state_file}' cannot be read: it is damaged. The rows so far are kept in "
                f"'{self.path / 'metrics.jsonl'}'. Remove the state file, and --resume trains from the beginning."
            ) from error
        return state


def folder_named(out: str | Path) -> Path:
    """Convert ``--out`` to a path.

    Raises:
        SettingsError: it is empty, for example because of an unset shell variable.
    """
    if not str(out):
        raise SettingsError("--out is empty. Name a folder, or leave it out.")
    return Path(out)


def _without_none(value: Any) -> Any:
    """Drop entries that are None, because TOML has no null."""
    if isinstance(value, Mapping):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return value
