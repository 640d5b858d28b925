"""What a plugin for an experiment tracker implements: the log of one run, and what it is told of that run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from kdengine.plugins.run_view import RunView
from kdengine.storage.lane_place import LanePlace
from kdengine.storage.names import TUNING

__all__ = ["RunInfo", "RunLog", "State"]

State = Literal["running", "finished", "failed", "interrupted"]
"""What has become of a run. One that was interrupted can be resumed, and is then running again."""


@dataclass(frozen=True)
class RunInfo:
    """What a tracker is told of a run before it begins.

    Attributes:
        name: a short name: that of the run folder; of a lane in a comparison its label and trial, ``st trial-1``, with its
            student where there are several.
        group: what it is part of: the name of the comparison's folder; None for a run of its own.
        title: a line for people: ``resnet8 <- timm:resnet32 (rkd) on digits``.
        folder: the run folder, or that of the comparison.
        kind: ``"run"``, or ``"comparison"`` for the log of the table at the end of a comparison.
        choices: its settings as flat numbers and words: ``student``, ``seed``, ``train.lr``, ``rkd.angle``.
        id: the identity that :attr:`RunLog.id` gave when the run began; None unless it is resumed.
    """

    name: str
    group: str | None
    title: str
    folder: Path
    kind: Literal["run", "comparison"] = "run"
    choices: Mapping[str, float | str] = field(default_factory=dict)
    id: str | None = None

    @classmethod
    def of(cls, run: RunView, choices: Mapping[str, float | str], known: str | None) -> RunInfo:
        """From a run that begins or is resumed.

        Args:
            run: the run.
            choices: its settings.
            known: the identity of its log, if it was begun before.
        """
        place, name, group = LanePlace.of(run.folder.path), run.folder.path.resolve().name, None
        if place is not None:
            name = " ".join(filter(None, (place.student, run.lane.name, place.trial)))
            group = _group(place.comparison)
        return cls(name, group, run.title, run.folder.path, "run", choices, known)


class RunLog(ABC):
    """The log of one run at a tracker. Several may be open in one process at a time, as the lanes of a comparison are.

    Whatever a method raises ends the log of that run, with one warning, and never the run.
    """

    @property
    @abstractmethod
    def id(self) -> str:
        """Identity of the run at the tracker, by which a resumed run finds its log again; stored in the run folder."""

    @abstractmethod
    def epoch(self, numbers: Mapping[str, float], epoch: int, step: int) -> None:
        """Log an epoch that has ended; called once for each.

        Args:
            numbers: scores by split (``top1/test``), loss terms (``terms/rkd.angle``), ``loss``, ``lr``, ``seconds`` ...
            epoch: number of the epoch, from 1, over all phases.
            step: steps taken until its end.
        """

    @abstractmethod
    def step(self, numbers: Mapping[str, float], step: int) -> None:
        """Log the weighted loss terms of a single step.

        Args:
            numbers: by term: ``steps/task``, ``steps/rkd.angle``.
            step: number of the step, from 1, over all epochs.
        """

    @abstractmethod
    def image(self, name: str, file: Path) -> None:
        """Log a picture.

        Args:
            name: what it shows: ``samples``.
            file: a PNG, which the run folder keeps.
        """

    @abstractmethod
    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[str | float | None]]) -> None:
        """Log a table.

        Args:
            name: what it shows: ``per-class``, ``leaderboard``.
            columns: titles.
            rows: cells; None where there is nothing to say.
        """

    @abstractmethod
    def end(self, state: State, summary: Mapping[str, float | str]) -> None:
        """Mark the run and close its log; called once, last.

        Args:
            state: ``"finished"``, ``"failed"``, or ``"interrupted"``: it can be resumed, and the log is then opened again.
            summary: the scores of a finished run; of one that failed its ``reason``.
        """


def _group(comparison: Path) -> str:
    """The name of a comparison; of the probes before it, with the student that they are for where there are several."""
    if comparison.name == TUNING:
        return f"{comparison.parent.name} {TUNING}"
    if comparison.parent.name == TUNING:
        return f"{comparison.parents[1].name} {TUNING} {comparison.name}"
    return comparison.name
