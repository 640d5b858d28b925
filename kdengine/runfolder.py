"""The run folder: everything that a run leaves behind, written so that it is readable at any instant."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w
import torch
from importlib_metadata import PackageNotFoundError, version
from safetensors.torch import save_file
from torch import Tensor

from kdengine.errors import SettingsError
from kdengine.hookspecs import hookimpl
from kdengine.settings import Settings, read_toml

if TYPE_CHECKING:
    from kdengine.result import Result
    from kdengine.run import Run
    from kdengine.runtime import Runtime

__all__ = ["RunFolder"]

PACKAGES = ("kdengine", "kdzoo", "torch", "torchvision", "timm", "lightning-fabric", "numpy")


class RunFolder:
    """A run folder, and the observer that fills it.

    Args:
        path: the folder.
        proposed: whether the name is only a proposal, to be changed where another run has taken it.
    """

    def __init__(self, path: str | Path, proposed: bool = False) -> None:
        self.path = Path(path)
        self._proposed = proposed

    @classmethod
    def default(cls, name: str) -> RunFolder:
        """A new folder below ``runs/``, named after the run and the time."""
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        return cls(Path("runs") / f"{name}-{stamp}", proposed=True)

    def agreed(self, runtime: Runtime) -> RunFolder:
        """The main process's folder, in every process."""
        path = runtime.same(self.path)
        return self if runtime.is_main else RunFolder(path)

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
        """Create the folder with its settings and its manifest.

        Args:
            settings: as resolved.
            facts: further entries of the manifest.
            fresh: whether no run may lie there yet.

        Raises:
            SettingsError: another run has taken the folder meanwhile, or it cannot be made.
        """
        if fresh:
            self.check_new()
        try:
            self._make()
        except OSError as error:
            raise SettingsError(
                f"The run folder '{self.path}' cannot be made: {error.strerror}. Choose another --out."
            ) from error
        self.write_text("run.toml", tomli_w.dumps(_without_none(settings.model_dump(mode="json"))))
        self.write_json("manifest.json", {**_manifest(), **facts})

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

    def settings(self) -> Settings:
        """The settings of the run that lies here.

        Raises:
            SettingsError: there is no run here.
        """
        if not (self.path / "run.toml").is_file():
            raise SettingsError(f"'{self.path}' is no run folder: it holds no run.toml.")
        return Settings.checked(read_toml(self.path / "run.toml"))

    def write_text(self, name: str, text: str) -> None:
        """Write a file whole or not at all."""
        with self._replacing(name) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Write a JSON file whole or not at all."""
        self.write_text(name, json.dumps(value, indent=2) + "\n")

    def write_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write a safetensors file whole or not at all; tensors that share memory are written out each."""
        separate = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
        with self._replacing(name) as temporary:
            save_file(separate, temporary)

    def result(self) -> dict[str, Any] | None:
        """What ``result.json`` says, or None while the run is not finished."""
        file = self.path / "result.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None

    def failure(self) -> str | None:
        """Why the lane failed, or None where it did not."""
        file = self.path / "failed.json"
        return json.loads(file.read_text(encoding="utf-8"))["error"] if file.is_file() else None

    @property
    def ended(self) -> bool:
        """Whether the run is finished or has failed."""
        return self.result() is not None or self.failure() is not None

    def forget_failure(self) -> None:
        """Let a run that failed be tried again."""
        (self.path / "failed.json").unlink(missing_ok=True)

    def manifest(self) -> dict[str, Any]:
        """What ``manifest.json`` says of versions and hardware."""
        found: dict[str, Any] = json.loads((self.path / "manifest.json").read_text(encoding="utf-8"))
        return found

    def metrics(self) -> list[dict[str, Any]]:
        """The rows of ``metrics.jsonl``."""
        file = self.path / "metrics.jsonl"
        if not file.is_file():
            return []
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]

    def save_state(self, run: Run) -> None:
        """Keep what a resumed run needs."""
        (self.path / "state").mkdir(exist_ok=True)
        with self._replacing("state/lane.pt") as temporary:
            torch.save(run.lane.state_dict(), temporary)

    def load_state(self) -> dict[str, Any]:
        """The saved state of the lane; empty when nothing was saved yet."""
        if not self.state_file.is_file():
            return {}
        state: dict[str, Any] = torch.load(self.state_file, map_location="cpu", weights_only=True)
        return state

    @hookimpl(tryfirst=True)
    def kdengine_after_epoch(self, run: Run, record: dict[str, Any]) -> None:
        """Append the row, then save the state; rows beyond the state are dropped when a run is resumed."""
        rows = [json.dumps(row) for row in run.lane.history]
        self.write_text("metrics.jsonl", "\n".join(rows) + "\n")
        self.save_state(run)

    @hookimpl(tryfirst=True)
    def kdengine_after_fit(self, run: Run, result: Result) -> None:
        """Write the weights and the result, and drop what only a resumed run would need."""
        lane = run.lane
        self.write_tensors("student.safetensors", result.student.state_dict())
        for number, link in enumerate(lane.links[:-1], 1):
            self.write_tensors(f"assistant-{number}.safetensors", link.module.student.state_dict())
        if lane.best_weights:
            self.write_tensors("student-best.safetensors", lane.best_weights)
        if lane.connectors():
            self.write_tensors("connectors.safetensors", lane.connectors())
        self.write_json("result.json", result.to_dict())
        shutil.rmtree(self.path / "state", ignore_errors=True)

    @hookimpl(tryfirst=True)
    def kdengine_on_error(self, run: Run, error: BaseException) -> None:
        """Note why the lane failed; an interruption is no failure."""
        if run.lane.failure is not None:
            self.write_json("failed.json", {"error": str(error), "epoch": len(run.lane.history) + 1})

    @contextmanager
    def _replacing(self, name: str) -> Iterator[Path]:
        """A temporary path that takes the name's place when the block ends well."""
        final = self.path / name
        temporary = final.with_name(f".{final.name}.{os.getpid()}")
        try:
            yield temporary
            os.replace(temporary, final)
        finally:
            temporary.unlink(missing_ok=True)


def _without_none(value: Any) -> Any:
    """TOML knows no null: what is None is left out."""
    if isinstance(value, Mapping):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return value


def _manifest() -> dict[str, Any]:
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "argv": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: _version(name) for name in PACKAGES},
        "git_commit": _git_commit(),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The commit of the repository that the run was started in, if any."""
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None
