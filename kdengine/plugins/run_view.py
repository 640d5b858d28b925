"""Public protocols of what observers see of a run, so that plugins can type their hooks without importing internals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from kdengine.config.settings import Settings

__all__ = ["ComparisonView", "FolderView", "LaneView", "PhaseView", "ResultView", "RunView", "RuntimeView"]


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
    def steps(self) -> int:
        """Steps in an epoch."""

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

    def per_class(self, network: nn.Module) -> Sequence[Mapping[str, Any]] | None:
        """For each class ``class``, ``images``, ``accuracy`` in percent, and ``confused_with``, what it is mostly taken for.

        It evaluates all test images, so call it once, at the end. None if the task has no classes to tell apart, or the data is
        loaders of the user's own.

        Args:
            network: takes the images of the student; ``result.student``.
        """


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


class ComparisonView(Protocol):
    """A comparison that has ended."""

    @property
    def folder(self) -> Path:
        """Its folder, which holds the folders of its lanes."""

    @property
    def title(self) -> str:
        """What was compared, on which data and machine."""

    @property
    def columns(self) -> Sequence[str]:
        """Titles of the columns of its table."""

    @property
    def rows(self) -> Sequence[Sequence[str]]:
        """The lines of its table, the best method first."""

    @property
    def facts(self) -> Sequence[Mapping[str, Any]]:
        """The same as numbers: for each method ``method``, the mean of its scores, ``gain`` and so on, as ``--json`` prints."""
