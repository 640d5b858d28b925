"""MLflow: every run, with its settings, numbers, pictures and tables. An observer, not a method."""

from __future__ import annotations

import csv
import io
import os
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from kdengine import PluginError, RunInfo, RunLog, Tracking

if find_spec("mlflow") is None:  # it is imported when a run is logged, for that takes a while
    raise PluginError("MLflow cannot be imported. Install it: pip install mlflow")

__all__ = ["MlflowLog", "tracking"]

EXPERIMENT = "kdengine"
"""The experiment, unless ``MLFLOW_EXPERIMENT_NAME`` or ``MLFLOW_EXPERIMENT_ID`` names another."""
AT_ONCE = 100
"""Parameters that a server takes in one request."""
LONGEST = 5000
"""Characters of a value that every server takes."""
STATUS = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}


class MlflowLog(RunLog):
    """A run of MLflow, on the server or in the folder that ``MLFLOW_TRACKING_URI`` names.

    Args:
        info: the run.
    """

    def __init__(self, info: RunInfo) -> None:
        from mlflow import MlflowClient

        self._client = MlflowClient()
        if info.id is None:
            tags = {"mlflow.note.content": info.title, "mlflow.source.name": "kdengine", "kind": info.kind}
            tags |= {} if info.group is None else {"group": info.group}
            run = self._client.create_run(self._experiment(), tags=tags, run_name=info.name)
            self._id = str(run.info.run_id)
            self._choose(info.choices)
        else:
            self._id = info.id
            self._client.update_run(self._id, status="RUNNING")
        self._client.set_tag(self._id, "state", "running")

    @property
    def id(self) -> str:
        """The run id."""
        return self._id

    def epoch(self, numbers: Mapping[str, float], epoch: int, step: int) -> None:
        """Log an epoch as metrics over epochs; ``loss`` becomes ``loss/train``, for a folder cannot also hold ``loss/test``."""
        self._log({"loss/train" if name == "loss" else name: value for name, value in numbers.items()}, epoch)

    def step(self, numbers: Mapping[str, float], step: int) -> None:
        """Log the terms of a step as metrics over steps."""
        self._log(numbers, step)

    def image(self, name: str, file: Path) -> None:
        """Store a picture as an artifact, which the page of the run shows."""
        self._client.log_artifact(self._id, str(file), "images")

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[str | float | None]]) -> None:
        """Store a table as an artifact in CSV, which the page of the run shows as a table."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([columns, *rows])
        self._client.log_text(self._id, text.getvalue(), f"tables/{name}.csv")

    def end(self, state: str, summary: Mapping[str, float | str]) -> None:
        """Log the scores as metrics and words as tags, and set the status: finished, failed, or killed."""
        words = {name: value[:LONGEST] for name, value in summary.items() if isinstance(value, str)}
        for name, value in {"state": state, **words}.items():
            self._client.set_tag(self._id, name, value)
        self._log({f"result/{name}": value for name, value in summary.items() if not isinstance(value, str)}, 0)
        self._client.set_terminated(self._id, STATUS[state])

    def _experiment(self) -> str:
        """The id of the experiment, which is created if there is none of that name."""
        known = os.environ.get("MLFLOW_EXPERIMENT_ID")
        if known:
            return known
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        experiment = self._client.get_experiment_by_name(name)
        return str(self._client.create_experiment(name) if experiment is None else experiment.experiment_id)

    def _choose(self, choices: Mapping[str, float | str]) -> None:
        from mlflow.entities import Param

        params = [Param(name, str(value)[:LONGEST]) for name, value in choices.items()]
        for start in range(0, len(params), AT_ONCE):
            self._client.log_batch(self._id, params=params[start : start + AT_ONCE])

    def _log(self, numbers: Mapping[str, float], place: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self._id, metrics=[Metric(name, float(value), now, place) for name, value in numbers.items()])


tracking = Tracking("mlflow", MlflowLog)
kdengine_before_fit = tracking.kdengine_before_fit
kdengine_after_step = tracking.kdengine_after_step
kdengine_after_epoch = tracking.kdengine_after_epoch
kdengine_after_fit = tracking.kdengine_after_fit
kdengine_on_error = tracking.kdengine_on_error
kdengine_after_comparison = tracking.kdengine_after_comparison
