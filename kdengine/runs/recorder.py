"""The observer that writes the run folder."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from kdengine.plugins.hookspecs import hookimpl
from kdengine.storage.jsontext import json_text
from kdengine.storage.runfolder import RunFolder
from kdengine.storage.steplog import StepLog
from kdengine.training.signals import Stopped

if TYPE_CHECKING:
    from kdengine.runs.result import Result
    from kdengine.runs.run import Run

__all__ = ["FolderRecorder"]


class FolderRecorder:
    """Writes the rows, states, weights and result of one run, keeping its folder readable at all times.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self._saved_at = time.monotonic()
        self._checked = False
        self._steps = StepLog(folder.path / "steps.jsonl")

    @hookimpl(tryfirst=True)
    def kdengine_before_fit(self, run: Run) -> None:
        """Start the save timer, and forget logged steps that come again."""
        self._saved_at = time.monotonic()
        self._steps.rewind(len(run.lane.history), run.lane.steps_done)

    @hookimpl(tryfirst=True)
    def kdengine_after_step(self, run: Run, done: int, terms: Mapping[str, Tensor]) -> None:
        """Save the state periodically during long epochs, and log steps; multi-process runs save only between epochs."""
        every = run.settings.train.log_every
        if every is not None and done % every == 0 and run.lane.settle():
            row = {"epoch": len(run.lane.history) + 1, "step": done, "lr": run.lane.lr}
            self._steps.append({**row, "terms": {name: float(value) for name, value in terms.items()}})
        minutes = run.settings.train.save_minutes
        if minutes and run.can_save_within_epochs and time.monotonic() - self._saved_at >= 60 * minutes:
            self.save(run)

    @hookimpl(wrapper=True, tryfirst=True)
    def kdengine_after_epoch(self, run: Run, record: dict[str, Any]) -> Iterator[Any]:
        """Write row and state before the other observers are called, and again if they added to the row."""
        self._write(run)
        before = json_text(record)
        try:
            return (yield)
        finally:
            if json_text(record) != before:
                self._write(run)

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
            self.folder.write_json("failed.json", {"error": str(error), "epoch": len(run.lane.history) + 1})
        elif isinstance(error, Stopped) and run.can_save_within_epochs:
            self.save(run)

    def _write(self, run: Run) -> None:
        lane, every = run.lane, run.settings.train.keep_every
        if every is not None and lane.learner is lane.student and len(lane.history) % every == 0:
            self.folder.write_weights(f"student-epoch-{len(lane.history)}.safetensors", lane.deployment.measured.state_dict())
        self.folder.write_rows(lane.history)
        self.save(run)

    def save(self, run: Run) -> None:
        """Save the state to resume from, unless its last step failed; the first one is read back as a check."""
        if not run.lane.settle():
            return
        self.folder.write_state(run.lane.state_dict(), check=not self._checked)
        self._checked = True
        self._saved_at = time.monotonic()
