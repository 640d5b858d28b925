"""A run in progress, as seen by observers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from kdengine.config.settings import Settings
from kdengine.config.trust import names_code
from kdengine.data.dataset import Data
from kdengine.errors import in_shell
from kdengine.runs.per_class import per_class
from kdengine.storage.runfolder import RunFolder
from kdengine.training.lane import Lane
from kdengine.training.runtime import Runtime

__all__ = ["Run"]


@dataclass(frozen=True)
class Run:
    """The lane in training, with its data, runtime and folder.

    Attributes:
        settings: as resolved, with the options of every method.
        lane: the student being trained.
        data: the training data; None for loaders of the user's own.
        runtime: device and precision.
        folder: the run folder.
        hooks: the hooks of all observers.
        advice: custom resume instructions; by default, the command that resumes the folder.
    """

    settings: Settings
    lane: Lane
    data: Data | None
    runtime: Runtime
    folder: RunFolder
    hooks: Any
    advice: str = ""

    @property
    def title(self) -> str:
        """A one-line title: ``resnet8 <- timm:resnet32 (rkd) on digits``."""
        if self.settings.teacher is None:
            return f"{self.settings.student} on {self.settings.data}"
        return f"{self.settings.student} <- {self.settings.taught_by} ({self.lane.name}) on {self.settings.data}"

    @property
    def again(self) -> str:
        """How to resume the run after an interruption."""
        if self.advice and not self.advice.startswith("kdengine "):
            return self.advice
        passed = {"teacher": self.settings.teachers, "student": (self.settings.student,)}
        as_modules = [role for role, specs in passed.items() if any(spec.startswith("module:") for spec in specs)]
        if as_modules and not self.advice:
            modules = ", ".join(f"{role}={_places(passed[role])}" for role in as_modules)
            return f'Engine.resume("{self.folder.path}", {modules}).fit() with the same modules as before'
        trust = " --trust" if names_code(self.settings.model_dump()) else ""
        return self.runtime.launcher + (self.advice or f"kdengine run --resume {in_shell(self.folder.path)}") + trust

    @property
    def total_epochs(self) -> int:
        """Total epochs of all phases."""
        return self.lane.total_epochs

    def per_class(self, network: nn.Module) -> list[dict[str, Any]] | None:
        """How well a network that takes the images of the student recognises each class.

        It evaluates all test images. None if the task has no classes to tell apart, or the data is loaders of the user's own.

        Args:
            network: the student, or the network that is deployed in its place.
        """
        if self.data is None:
            return None
        prepared = self.lane.chain[-1].student.preprocess.before(network)
        return per_class(prepared, self.data, self.lane.task, self.settings.train, self.runtime)

    @property
    def can_save_within_epochs(self) -> bool:
        """Whether an epoch can be resumed midway: requires reproducible batches."""
        return self.data is not None


def _places(specs: Sequence[str]) -> str:
    """Where the modules of a role go: ``...``; of several teachers, ``[..., None]``."""
    places = ["..." if spec.startswith("module:") else "None" for spec in specs]
    return places[0] if len(places) == 1 else f"[{', '.join(places)}]"
