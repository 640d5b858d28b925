"""Trackio: every run, with its settings, numbers, pictures and tables. An observer, not a method."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from contextvars import Context
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kdengine import PluginError, RunInfo, RunLog, Tracking

if find_spec("trackio") is None:  # it is imported when a run is logged, for that takes a while
    raise PluginError("Trackio cannot be imported. Install it: pip install trackio")

__all__ = ["TrackioLog", "tracking"]

PROJECT = "kdengine"
"""The project, unless ``TRACKIO_PROJECT`` names another."""


class TrackioLog(RunLog):
    """A run of Trackio; where it is kept is configured by Trackio's own environment variables.

    Trackio finds a run by its name alone, so names end with four random digits, and are what :attr:`id` says.

    Args:
        info: the run.
    """

    def __init__(self, info: RunInfo) -> None:
        import trackio

        self._name = info.id or f"{info.name}-{secrets.token_hex(2)}"
        monitors = {} if info.group is None else {"auto_log_cpu": False, "auto_log_gpu": False}  # lanes share one machine
        with _words_on_standard_error():
            # Trackio finishes the run that is current in its context, but lanes of a comparison are logged side by side
            self._run: Any = Context().run(
                trackio.init,
                os.environ.get("TRACKIO_PROJECT") or PROJECT,
                name=self._name,
                group=info.group,
                config={"kind": info.kind, "title": info.title, **info.choices},
                resume="never" if info.id is None else "allow",
                embed=False,
                **monitors,
            )
        self._step = 0

    @property
    def id(self) -> str:
        """The name of the run."""
        return self._name

    def epoch(self, numbers: Mapping[str, float], epoch: int, step: int) -> None:
        """Log an epoch at its last step, together with its number."""
        self._log({"epoch": epoch, **numbers}, step)

    def step(self, numbers: Mapping[str, float], step: int) -> None:
        """Log the terms of a step."""
        self._log(numbers, step)

    def image(self, name: str, file: Path) -> None:
        """Log a picture as an image."""
        import trackio

        self._log({name: trackio.Image(str(file))}, self._step)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[str | float | None]]) -> None:
        """Log a table."""
        import trackio

        self._log({name: trackio.Table(columns=list(columns), data=[list(row) for row in rows])}, self._step)

    def end(self, state: str, summary: Mapping[str, float | str]) -> None:
        """Log the scores and the state, raise an alert if the run is not finished, and close it."""
        import trackio

        self._log({"state": state, **{f"result/{name}": value for name, value in summary.items()}}, self._step)
        with _words_on_standard_error():
            if state != "finished":
                level = trackio.AlertLevel.ERROR if state == "failed" else trackio.AlertLevel.WARN
                self._run.alert(f"{self._name} {state}", str(summary.get("reason", "It can be resumed.")), level, self._step)
            self._run.finish()

    def _log(self, values: Mapping[str, Any], step: int) -> None:
        self._step = max(self._step, step)
        self._run.log(dict(values), step=step)


def _words_on_standard_error() -> redirect_stdout[Any]:
    """Inside, what Trackio prints does not mix with the output of commands."""
    return redirect_stdout(sys.stderr)


tracking = Tracking("trackio", TrackioLog)
kdengine_before_fit = tracking.kdengine_before_fit
kdengine_after_step = tracking.kdengine_after_step
kdengine_after_epoch = tracking.kdengine_after_epoch
kdengine_after_fit = tracking.kdengine_after_fit
kdengine_on_error = tracking.kdengine_on_error
kdengine_after_comparison = tracking.kdengine_after_comparison
