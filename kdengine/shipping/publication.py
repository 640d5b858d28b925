"""What is published of a run: the student that is pushed, and the facts that its card states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from kdengine.errors import SettingsError
from kdengine.runs.past_student import PastStudent
from kdengine.shipping.provenance import Origin, Trial, origin_of_student, origins_of_teachers, trials_of
from kdengine.storage.runfolder import RunFolder
from kdengine.storage.scores import Measure, Scoring

__all__ = ["Publication", "checked_repo"]


@dataclass(frozen=True)
class Publication:
    """A student with everything that is said about it.

    Attributes:
        repo: the repository on the hub, ``USER/NAME`` or ``NAME``.
        student: the student, with the weights that are pushed.
        weights: which those are: ``"last"``, ``"best"`` or ``"ema"``.
        licence: the licence of the student as the hub names it; None if its author has not chosen one.
        teachers: the networks that taught it, with the licences of their weights.
        start: the student as it began, with the licence of the weights that it started from.
        trials: the trials of its comparison, or the run alone.
        manifest: the content of ``manifest.json``; empty if there is none.
        rows: the rows of ``metrics.jsonl``.
        package: the package that registers its network with timm; None if timm does not build it.
        not_timm: why timm does not build it.
    """

    repo: str
    student: PastStudent
    weights: str
    licence: str | None
    teachers: Sequence[Origin]
    start: Origin
    trials: Sequence[Trial]
    manifest: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    package: str | None = None
    not_timm: str = ""

    @classmethod
    def of(cls, folder: Path, repo: str, student: PastStudent, weights: str, licence: str | None) -> Publication:
        """From a finished run.

        Args:
            folder: the run folder.
            repo: the repository.
            student: its student.
            weights: which weights it has.
            licence: the licence of the student, if its author has chosen one.
        """
        files = RunFolder(folder)
        teachers = origins_of_teachers(student.settings, student.result)
        trials = trials_of(folder, student.result, student.task.scoring.headline.name)
        manifest = files.manifest_if_any()
        start = origin_of_student(student.settings)
        return cls(repo, student, weights, licence, teachers, start, trials, manifest, files.metrics())

    @property
    def name(self) -> str:
        """The name of the model, without its owner."""
        return self.repo.rpartition("/")[2]

    @property
    def scoring(self) -> Scoring:
        """What its task measures."""
        return self.student.task.scoring

    @property
    def methods(self) -> tuple[str, ...]:
        """Ids of its methods."""
        return tuple(self.student.result.get("methods", ()))

    @property
    def data(self) -> Mapping[str, Any]:
        """What the run records about its data."""
        found: Mapping[str, Any] = self.student.result.get("data", {})
        return found

    @property
    def scores(self) -> list[tuple[Measure, float]]:
        """What was measured on the test images with the weights that are pushed."""
        found = [(measure, self._score(measure)) for measure in self.scoring.measures]
        return [(measure, value) for measure, value in found if value is not None]

    def _score(self, measure: Measure) -> float | None:
        student: Mapping[str, Any] = self.student.result["student"]
        if self.weights == "last":
            return student.get(measure.name)
        if self.weights == "ema":
            return self.rows[-1].get(f"ema_test_{measure.name}") if self.rows else None
        if measure == self.scoring.headline:
            return student.get(f"best_{measure.name}")
        best = [row for row in self.rows if row["epoch"] == student.get("best_epoch")]
        return best[0].get(f"test_{measure.name}") if best else None


def checked_repo(repo: str) -> str:
    """The name of a repository.

    Raises:
        SettingsError: it is none, or huggingface_hub is not installed.
    """
    try:
        hub: Any = import_module("huggingface_hub.utils")
    except ImportError as error:
        raise SettingsError("Pushing needs huggingface_hub: pip install 'kdengine[hub]'.") from error
    try:
        hub.validate_repo_id(repo)
    except hub.HFValidationError as error:
        raise SettingsError(
            f"'{repo}' is not the name of a repository: {str(error).rstrip('.')}. Write USER/NAME, or NAME for one of your own."
        ) from error
    return repo
