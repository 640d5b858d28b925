"""Public protocols of what observers see of a run, so that plugins can type their hooks without importing internals."""

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
        """Its path."""


class PhaseView(Protocol):
    """A training phase."""

    @property
    def name(self) -> str:
        """Its name in logs and ``step.phase``."""

    @property
    def epochs(self) -> int:
        """Number of epochs."""

    @property
    def task(self) -> bool:
        """Whether the task loss is added."""


class LaneView(Protocol):
    """A student in training."""

    @property
    def name(self) -> str:
        """Its name in logs and folders."""

    @property
    def student(self) -> nn.Module:
        """The student; the same object throughout training."""

    @property
    def history(self) -> Sequence[Mapping[str, Any]]:
        """One row per epoch, as in ``metrics.jsonl``."""

    @property
    def phases(self) -> Sequence[PhaseView]:
        """All phases, in order."""

    @property
    def steps_done(self) -> int:
        """Steps taken in the current epoch."""


class RuntimeView(Protocol):
    """Where a run takes place."""

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes and reports; of several, one is."""


class RunView(Protocol):
    """A run in progress."""

    @property
    def settings(self) -> Settings:
        """The resolved settings, with the options of every method."""

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
        """Its title: ``resnet8 <- timm:resnet32 (rkd) on digits``."""

    @property
    def again(self) -> str:
        """How to resume it after an interruption."""

    @property
    def total_epochs(self) -> int:
        """Epochs of all phases together."""


class ResultView(Protocol):
    """The result of a run."""

    @property
    def student(self) -> nn.Module:
        """The trained network in eval mode."""

    @property
    def history(self) -> Sequence[Mapping[str, Any]]:
        """One row per epoch."""

    @property
    def folder(self) -> Path:
        """The run folder."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """The content of ``result.json``."""
