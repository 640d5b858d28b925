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

__all__ = ["Run", "train_one"]


@dataclass(frozen=True)
class Run:
    """What is being trained, and where it is kept.

    Attributes:
        settings: as resolved, with the options of every method.
        lanes: the students being taught.
        data: what they are trained on.
        runtime: where they run.
        folder: the run folder.
        hook: the hooks of all observers.
        again: what to do to go on after an interruption.
    """

    settings: Settings
    lanes: Sequence[Lane]
    data: Data | None
    runtime: Runtime
    folder: RunFolder
    hook: Any
    again: str = ""

    @property
    def title(self) -> str:
        """What to call it: ``resnet8 <- timm:resnet32 (rkd) on digits``."""
        if self.settings.teacher is None:
            return f"{self.settings.student} on {self.settings.data}"
        methods = ", ".join(lane.name for lane in self.lanes)
        return f"{self.settings.student} <- {self.settings.teacher} ({methods}) on {self.settings.data}"

    @property
    def total_epochs(self) -> int:
        """Epochs of the longest lane."""
        return max(lane.total_epochs for lane in self.lanes)


def train_one(run: Run, source: Source, teacher: Mapping[str, Any] | None) -> Result:
    """Train the only lane of a run, under the eyes of its observers.

    Args:
        run: the run; its folder is made.
        source: batches to train on and to measure accuracy on.
        teacher: what the result says of the teacher.
    """
    (lane,) = run.lanes
    try:
        run.hook.kdengine_before_fit(run=run)
        fit(run, run.lanes, source)
        if lane.failure is not None:
            raise lane.failure
        result = Result.of(run, teacher, source.describe())
        run.hook.kdengine_after_fit(run=run, result=result)
    except BaseException as error:
        run.hook.kdengine_on_error(run=run, error=error)
        raise
    finally:
        lane.retire()
    return result
