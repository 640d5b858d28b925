"""What runs in a job: a unit, in a worker beside the process that SLURM sends its signals to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdengine import Outcome, Unit, Worker

__all__ = ["Carry"]

GRACE = 60.0
"""Seconds that a unit has to save before its job leaves."""


class Carry:
    """Carries out a unit; submitit pickles it with the job, and calls it there.

    Args:
        unit: the unit as plain data.
        threads: its threads.
        stop: a file in the shared folder; once it exists, the unit is asked to save and stop.
    """

    def __init__(self, unit: Mapping[str, Any], threads: int, stop: str) -> None:
        self.unit, self.threads, self.stop = dict(unit), threads, stop
        self._worker: Worker | None = None

    def __call__(self) -> dict[str, Any]:
        """The outcome as plain data."""
        unit, stop = Unit(**self.unit), Path(self.stop)
        if stop.exists():
            return vars(Outcome(unit.name, "stopped", "it had not begun"))
        worker = self._worker = Worker(threads=self.threads)
        asked = False
        try:
            worker.begin(unit)
            while True:
                outcome = worker.poll(0.5)
                if outcome is not None:
                    return vars(outcome)
                if not asked and stop.exists():
                    asked = True
                    worker.stop()
        finally:
            self._worker = None
            worker.close()

    def checkpoint(self) -> Any:
        """Called before the job is preempted or runs out of time: save, and go on in a new job."""
        from submitit.helpers import DelayedSubmission

        if self._worker is not None:
            self._worker.stop()
            self._worker.finish(GRACE)
        return DelayedSubmission(Carry(self.unit, self.threads, self.stop))
