"""What observers see of a run: public protocols, so that a plugin's hooks are typed without importing the engine's parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from kdengine.config.settings import Settings

__all__ = ["FolderView", "LaneView", "PhaseView", "ResultView", "RunView", "RuntimeView"]


class FolderView(Protocol):
    """The folder of a run."""

    @property
    def path(self) -> Path:
        """Where it lies."""


class PhaseView(Protocol):
    """A phase of training."""

    @property
    def name(self) -> str:
        """What logs and ``step.phase`` call it."""

    @property
    def epochs(self) -> int:
        """Its length."""

    @property
    def task(self) -> bool:
        """Whether the task loss counts."""


class LaneView(Protocol):
    """A student in training."""

    @property
    def name(self) -> str:
        """What logs and folders call it."""

    @property
    def student(self) -> nn.Module:
        """The student; the same object from beginning to end."""

    @property
    def history(self) -> Sequence[Mapping[str, Any]]:
        """One row an epoch, as in ``metrics.jsonl``."""

    @property
    def phases(self) -> Sequence[PhaseView]:
        """All phases, in order."""

    @property
    def steps_done(self) -> int:
        """Batches of the epoch in progress that it has stepped on."""


class RuntimeView(Protocol):
    """Where a run takes place."""

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes and reports; of several, one is."""


class RunView(Protocol):
    """A run in progress."""

    @property
    def settings(self) -> Settings:
        """As resolved, with the options of every method."""

    @property
    def lane(self) -> LaneView:
        """The student being taught."""

    @property
    def runtime(self) -> RuntimeView:
        """Where it takes place."""

    @property
    def folder(self) -> FolderView:
        """The run folder."""

    @property
    def title(self) -> str:
        """What to call it: ``resnet8 <- timm:resnet32 (rkd) on digits``."""

    @property
    def again(self) -> str:
        """What to do to resume it after an interruption."""

    @property
    def total_epochs(self) -> int:
        """Epochs of all phases."""


class ResultView(Protocol):
    """What a run came to."""

    @property
    def student(self) -> nn.Module:
        """The trained network in ``eval()``."""

    @property
    def history(self) -> Sequence[Mapping[str, Any]]:
        """One row an epoch."""

    @property
    def folder(self) -> Path:
        """The run folder."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """What ``result.json`` holds."""
