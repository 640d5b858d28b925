"""The run folder: everything that a run leaves behind, written so that it is readable at any instant."""

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
from kdengine.errors import SettingsError, StorageError, cause
from kdengine.storage.jsontext import json_text
from kdengine.storage.locks import FolderLock
from kdengine.storage.manifest import circumstances
from kdengine.storage.reading import read_json, read_rows
from kdengine.storage.writing import remove_leftovers, write_json, write_state, write_tensors, write_text

__all__ = ["RunFolder", "folder_named"]


class RunFolder:
    """The files of a run.

    Args:
        path: the folder.
        proposed: whether the name is only a proposal, to be changed where another run has taken it.
    """

    def __init__(self, path: str | Path, proposed: bool = False) -> None:
        self.path = Path(path)
        self._proposed = proposed
        self._lock = FolderLock(self.path)

    @classmethod
    def default(cls, name: str) -> RunFolder:
        """A new folder below ``runs/``, named after the run and the time."""
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        return cls(Path("runs") / f"{name}-{stamp}", proposed=True)

    @property
    def state_file(self) -> Path:
        """What a resumed run begins from; only there while the run is not finished."""
        return self.path / "state" / "lane.pt"

    def check_new(self) -> None:
        """Refuse a folder in which a run already lies, or which cannot be made.

        Raises:
            SettingsError: with the line that resumes it, or the advice to choose another.
        """
        parent = next(folder for folder in (self.path, *self.path.absolute().parents) if folder.exists())
        if parent != self.path and not (parent.is_dir() and os.access(parent, os.W_OK)):
            raise SettingsError(f"The run folder '{self.path}' cannot be made: '{parent}' is no folder that can be written to.")
        if self.path.exists() and not self.path.is_dir():
            raise SettingsError(f"--out '{self.path}' is a file. Name a folder.")
        if (self.path / "run.toml").exists() and not self._proposed:
            raise SettingsError(
                f"'{self.path}' already holds a run. Continue it with 'kdengine run --resume {self.path}', "
                "or choose another --out."
            )

    def begin(self, settings: Settings, facts: Mapping[str, Any], fresh: bool = True) -> None:
        """Create the folder with its manifest and its settings, and lock it.

        Args:
            settings: as resolved.
            facts: further entries of the manifest.
            fresh: whether no run may lie there yet.

        Raises:
            SettingsError: another run has taken the folder meanwhile, or is in it.
            StorageError: it cannot be made.
        """
        if fresh:
            self.check_new()
        try:
            self._make()
        except OSError as error:
            raise StorageError(
                f"The run folder '{self.path}' cannot be made: {error.strerror}. Choose another --out."
            ) from error
        self.take()
        if fresh:
            self.check_new()
        self._proposed = False
        self.write_json("manifest.json", {**circumstances(), **facts})
        self.write_settings(settings)

    def take(self) -> None:
        """Lock the folder, and remove what a killed process had begun to write.

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
        """Make the folder; of two runs that propose one name at the same time, the later one adds a number."""
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
        """The settings of the run that lies here.

        Raises:
            SettingsError: there is no run here.
        """
        if not (self.path / "run.toml").is_file():
            raise SettingsError(f"'{self.path}' is no run folder: it holds no run.toml.")
        return Settings.checked(read_toml(self.path / "run.toml"))

    def write_settings(self, settings: Settings) -> None:
        """Write ``run.toml``."""
        self.write_text("run.toml", tomli_w.dumps(_without_none(settings.model_dump(mode="json"))))

    def write_text(self, name: str, text: str) -> None:
        """Write a text file whole or not at all."""
        write_text(self.path / name, text)

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Write a JSON file whole or not at all."""
        write_json(self.path / name, value)

    def result(self) -> dict[str, Any] | None:
        """What ``result.json`` says, or None while the run is not finished."""
        file = self.path / "result.json"
        return read_json(file, needed={"student": dict}) if file.is_file() else None

    def failure(self) -> str | None:
        """Why the lane failed, or None where it did not."""
        file = self.path / "failed.json"
        return str(read_json(file).get("error")) if file.is_file() else None

    @property
    def is_finished(self) -> bool:
        """Whether there is a result."""
        return (self.path / "result.json").is_file()

    @property
    def ended(self) -> bool:
        """Whether the run is finished or has failed."""
        return self.result() is not None or self.failure() is not None

    def forget_failure(self) -> None:
        """Let a run that failed be tried again."""
        (self.path / "failed.json").unlink(missing_ok=True)

    def manifest(self) -> dict[str, Any]:
        """What ``manifest.json`` says of versions and hardware."""
        return read_json(self.path / "manifest.json")

    def metrics(self) -> list[dict[str, Any]]:
        """The rows of ``metrics.jsonl``."""
        return read_rows(self.path / "metrics.jsonl", needed=("lane", "epoch"))

    def write_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write ``metrics.jsonl``, one row a line."""
        self.write_text("metrics.jsonl", "".join(f"{json_text(row)}\n" for row in rows))

    def write_weights(self, name: str, tensors: Mapping[str, Any]) -> None:
        """Write a safetensors file."""
        write_tensors(self.path / name, tensors)

    def write_state(self, state: Mapping[str, Any], check: bool = False) -> None:
        """Keep what a resumed run needs.

        Args:
            state: tensors and plain data.
            check: read it back, so that a state that cannot be resumed is reported now, and not when it is needed.

        Raises:
            StorageError: it cannot be written, or not be read back.
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
                f"'{self.path.name}' cannot be saved so that it can be resumed: a state dict of its networks or methods holds "
                f"more than tensors and plain data ({cause(error)[:200]}). Keep state in buffers."
            ) from error

    def forget_state(self) -> None:
        """Drop what only a resumed run would need."""
        self.state_file.unlink(missing_ok=True)

    def load_state(self) -> dict[str, Any]:
        """The saved state of the lane; empty when nothing was saved yet.

        Raises:
            StorageError: it is damaged.
        """
        if not self.state_file.is_file():
            return {}
        try:
            state: dict[str, Any] = torch.load(self.state_file, map_location="cpu", weights_only=True)
        except Exception as error:  # what is wrong with it decides who complains, and how
            raise StorageError(
                f"The saved state '{self.state_file}' cannot be read: it is damaged. The rows up to there are kept in "
                f"'{self.path / 'metrics.jsonl'}'. Remove the file, and --resume trains from the beginning."
            ) from error
        return state


def folder_named(out: str | Path) -> Path:
    """The folder that was asked for.

    Raises:
        SettingsError: the name is empty, as that of a shell variable that is not set.
    """
    if not str(out):
        raise SettingsError("--out is empty. Name a folder, or leave it out.")
    return Path(out)


def _without_none(value: Any) -> Any:
    """TOML knows no null: what is None is left out."""
    if isinstance(value, Mapping):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return value
