"""A run in progress, as observers see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kdengine.dataset import Data
from kdengine.lane import Lane
from kdengine.loop import fit
from kdengine.result import Result
from kdengine.runtime import Runtime
from kdengine.settings import Settings
from kdengine.source import Source

if TYPE_CHECKING:
    from kdengine.runfolder import RunFolder

__all__ = ["Run", "train_all", "train_one"]


@dataclass(frozen=True)
class Run:
    """What is being trained, and where it is kept.

    Attributes:
        settings: as resolved, with the options of every method.
        lane: the student being taught.
        data: what it is trained on.
        runtime: where it runs.
        folder: the run folder.
        hook: the hooks of all observers.
        advice: what to do to go on after an interruption, where that is not to resume the folder.
    """

    settings: Settings
    lane: Lane
    data: Data | None
    runtime: Runtime
    folder: RunFolder
    hook: Any
    advice: str = ""

    @property
    def title(self) -> str:
        """What to call it: ``resnet8 <- timm:resnet32 (rkd) on digits``."""
        if self.settings.teacher is None:
            return f"{self.settings.student} on {self.settings.data}"
        return f"{self.settings.student} <- {self.settings.teacher} ({self.lane.name}) on {self.settings.data}"

    @property
    def again(self) -> str:
        """What to do to go on after an interruption."""
        return self.advice or f"kdengine run --resume {self.folder.path}"

    @property
    def total_epochs(self) -> int:
        """Epochs of all stages."""
        return self.lane.total_epochs

    def prepare(self, source: Source, teacher: Mapping[str, Any] | None = None, resumed: bool = False) -> None:
        """Make the folder; of a run that is resumed, return to the state that lies there.

        Args:
            source: what the manifest says of the data is read off it.
            teacher: what the manifest says of the teacher.
            resumed: whether the run has begun before.

        Raises:
            SettingsError: another run lies in the folder, or it cannot be made.
        """
        state = self.folder.load_state() if resumed else {}
        self.folder.forget_failure()
        if state:
            self.lane.load_state_dict(state)
        elif self.runtime.is_main:
            learnt_from = {"teacher": teacher} if teacher and self.settings.teacher else {}
            facts = {**self.runtime.describe(), "data": source.describe(), **learnt_from}
            self.folder.begin(self.settings, facts, fresh=not resumed)


def train_one(run: Run, source: Source, teacher: Mapping[str, Any] | None) -> Result:
    """Train one run; what fails it is raised.

    Args:
        run: the run; its folder is made.
        source: batches to train on and to measure accuracy on.
        teacher: what the result says of the teacher.
    """
    results = train_all([run], source, teacher)
    if run.lane.failure is not None:
        raise run.lane.failure
    return results[run.lane.name]


def train_all(runs: Sequence[Run], source: Source, teacher: Mapping[str, Any] | None) -> dict[str, Result]:
    """Train runs side by side, under the eyes of their observers; the results, by lane, of those that did not fail.

    Args:
        runs: with lanes of different names; their folders are made.
        source: batches to train on and to measure accuracy on.
        teacher: what the results say of the teacher.
    """
    results: dict[str, Result] = {}

    def finish(run: Run) -> None:
        """Write a run's result as soon as there is one."""
        run.lane.retire()
        if run.lane.failure is not None:
            run.hook.kdengine_on_error(run=run, error=run.lane.failure)
            return
        result = results[run.lane.name] = Result.of(run, teacher if run.settings.teacher else None, source.describe())
        run.hook.kdengine_after_fit(run=run, result=result)

    try:
        for run in runs:
            run.hook.kdengine_before_fit(run=run)
        fit(runs, source, finish)
    except BaseException as error:
        for run in runs:
            if run.lane.name not in results and run.lane.failure is None:
                run.hook.kdengine_on_error(run=run, error=error)
        raise
    finally:
        for run in runs:
            run.lane.retire()
    return results
