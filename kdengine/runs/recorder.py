"""The observer that writes the run folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from kdengine.errors import PluginError, cause
from kdengine.plugins.hookspecs import hookimpl
from kdengine.runs.whole_state import PARTS, whole_state
from kdengine.storage.jsontext import json_text
from kdengine.storage.runfolder import RunFolder
from kdengine.storage.steplog import StepLog
from kdengine.training.signals import Stopped

if TYPE_CHECKING:
    from kdengine.runs.result import Result
    from kdengine.runs.run import Run

__all__ = ["FolderRecorder", "StateGiver"]


class SaveTimer:
    """When the state of a run is to be saved within an epoch; all processes of the run come to the same answer."""

    def __init__(self) -> None:
        self._saved_at = 0.0

    def restart(self, run: Run) -> None:
        """Count from now on."""
        self._saved_at = run.runtime.now()

    def is_due(self, run: Run) -> bool:
        """Whether so many minutes have passed as the settings say."""
        minutes = run.settings.train.save_minutes
        return bool(minutes and run.can_save_within_epochs and run.runtime.now() - self._saved_at >= 60 * minutes)


class FolderRecorder:
    """Writes the rows, states, weights and result of one run, keeping its folder readable at all times.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self._timer = SaveTimer()
        self._checked = False
        self._parts: list[Any] = []
        self._steps = StepLog(folder.path / "steps.jsonl")

    @hookimpl(tryfirst=True)
    def kdengine_before_fit(self, run: Run) -> None:
        """Start the save timer, and forget logged steps that come again."""
        self._timer.restart(run)
        self._steps.rewind(len(run.lane.history), run.lane.steps_done)

    @hookimpl(tryfirst=True)
    def kdengine_after_step(self, run: Run, done: int, terms: Mapping[str, Tensor]) -> None:
        """Save the state periodically during long epochs, and log steps."""
        every = run.settings.train.log_every
        if every is not None and done % every == 0 and run.lane.settle():
            row = {"epoch": len(run.lane.history) + 1, "step": done, "lr": run.lane.lr}
            self._steps.append({**row, "terms": {name: float(value) for name, value in terms.items()}})
        if self._timer.is_due(run):
            self.save(run)

    @hookimpl(wrapper=True, tryfirst=True)
    def kdengine_after_epoch(self, run: Run, record: dict[str, Any]) -> Iterator[Any]:
        """Write row and state before the other observers are called, and again if they added to the row.

        Raises:
            PluginError: they added what JSON cannot hold; the row stays as it was.
        """
        self._write(run)
        before, kept = json_text(record), dict(record)
        try:
            return (yield)
        finally:
            if _text_of(record, kept) != before:
                self._write(run, again=True)

    @hookimpl(tryfirst=True)
    def kdengine_after_fit(self, run: Run, result: Result) -> None:
        """Write the weights and the result, and delete the state, which only a resumed run needs."""
        lane, folder = run.lane, self.folder
        folder.write_weights("student.safetensors", result.student.state_dict())
        for number, step in enumerate(lane.chain[:-1], 1):
            folder.write_weights(f"assistant-{number}.safetensors", step.module.student.state_dict())
        if lane.deployment.average is not None:
            folder.write_weights("student-ema.safetensors", lane.deployment.average.network.state_dict())
        if lane.best_weights:
            folder.write_weights("student-best.safetensors", lane.best_weights)
        connectors = lane.module.distillers.state_dict()
        if connectors:
            folder.write_weights("connectors.safetensors", connectors)
        folder.write_json("result.json", result.to_dict())
        folder.forget_state()

    @hookimpl(tryfirst=True)
    def kdengine_on_error(self, run: Run, error: BaseException) -> None:
        """Record why the lane failed; if it was asked to stop, which is not a failure, save its state."""
        if run.lane.failure is not None:
            self.folder.write_json("failed.json", {"error": cause(error), "epoch": len(run.lane.history) + 1})
        elif isinstance(error, Stopped) and run.can_save_within_epochs:
            self.save(run)

    def _write(self, run: Run, again: bool = False) -> None:
        lane, every = run.lane, run.settings.train.keep_every
        if every is not None and lane.learner is lane.student and len(lane.history) % every == 0:
            self.folder.write_weights(f"student-epoch-{len(lane.history)}.safetensors", lane.deployment.measured.state_dict())
        self.folder.write_rows(lane.history)
        self.save(run, again)

    def save(self, run: Run, again: bool = False) -> None:
        """Save the state to resume from, unless its last step failed; the first one is read back as a check.

        Args:
            run: the run; of several processes, all must save now.
            again: the other processes have given their parts, and have not taken a step since.
        """
        if not run.lane.settle():
            return
        state = whole_state(run.lane, self._parts if again else None)
        self._parts = state.get(PARTS, [])
        self.folder.write_state(state, check=not self._checked)
        self._checked = True
        self._timer.restart(run)


def _text_of(record: dict[str, Any], kept: Mapping[str, Any]) -> str:
    """The row as JSON; if it cannot be that, it is as it was before."""
    try:
        return json_text(record)
    except (TypeError, ValueError) as error:
        wrong = next(f"{name!r} is a {type(value).__name__}" for name, value in record.items() if not _fits(name, value))
        record.clear()
        record.update(kept)
        raise PluginError(
            f"An observer put into the row of an epoch what JSON cannot hold: {wrong}. Put in numbers, text, lists or "
            "mappings, under names."
        ) from error


def _fits(name: Any, value: Any) -> bool:
    try:
        json_text({name: value})
    except (TypeError, ValueError):
        return False
    return True


class StateGiver:
    """What the processes of a run do for its folder that do not write it: they give what the state in it has of them.

    Its hooks are called after the same steps as those of :class:`FolderRecorder`.
    """

    def __init__(self) -> None:
        self._timer = SaveTimer()

    @hookimpl
    def kdengine_before_fit(self, run: Run) -> None:
        """Start the save timer."""
        self._timer.restart(run)

    @hookimpl
    def kdengine_after_step(self, run: Run, done: int) -> None:
        """Take part in a save within an epoch, and learn of a step that was not finite when the first process does."""
        every = run.settings.train.log_every
        if every is not None and done % every == 0:
            run.lane.settle()
        if self._timer.is_due(run):
            self._give(run)

    @hookimpl
    def kdengine_after_epoch(self, run: Run) -> None:
        """Take part in the save after an epoch."""
        self._give(run)

    @hookimpl
    def kdengine_on_error(self, run: Run, error: BaseException) -> None:
        """Take part in the save of a run that was asked to stop."""
        if run.lane.failure is None and isinstance(error, Stopped) and run.can_save_within_epochs:
            self._give(run)

    def _give(self, run: Run) -> None:
        if run.lane.settle():
            whole_state(run.lane)
            self._timer.restart(run)
