"""Re-evaluation of the student in a run folder."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from torchmetrics import MetricCollection

from kdengine.errors import SettingsError, StorageError
from kdengine.runs.past_student import PastStudent
from kdengine.storage.confusion import ConfusionMatrix
from kdengine.training.evaluation import evaluate
from kdengine.training.runtime import Runtime

__all__ = ["evaluate_folder"]

log = logging.getLogger(__name__)


def evaluate_folder(
    folder: str | Path, weights: str = "last", data: str | None = None, trust: bool = False, per_class: bool = False
) -> dict[str, Any]:
    """Re-evaluate the student of a finished run.

    Args:
        folder: the run folder.
        weights: ``"last"``, ``"best"`` or ``"ema"``, the moving average.
        data: a data spec to use instead of the run's.
        trust: run third-party code that the folder names: ``python:`` specs.
        per_class: also count the images of each class by the class that the network gives them; on the run's own data, the
            counts are kept in ``classes.json`` for reports.

    Raises:
        KDError: the folder holds no finished run, its student does not match the shape or classes of the data, or its task
            has no classes.
    """
    student = PastStudent.open(folder, weights, data=data, trust=trust)
    if student.task.measured_by_teacher:
        raise SettingsError(
            f"The task '{student.task.name}' is measured by the teacher, in the run itself: see '{folder}/result.json'. "
            "With labelled data, the embedding can be probed: kdengine evaluate RUN --probe SPEC."
        )
    train = student.settings.train
    runtime = Runtime(train.device, "fp32", train.channels_last)
    batches = student.data.test_batches(train, runtime.device)
    further = _confusion(student) if per_class else None
    network = student.preprocess.before(runtime.place(student.network))
    scores = evaluate(network, batches, student.task, runtime, further=further)
    facts = {"student": student.settings.student, "weights": weights, "data": data or student.settings.data, **scores}
    if further is None:
        return facts
    matrix = ConfusionMatrix(student.classes, further.compute()["confusion"].tolist())
    if data is None:
        _keep(matrix, Path(folder), weights)
    return {**facts, **matrix.to_dict(), "per_class": matrix.per_class()}


def _confusion(student: PastStudent) -> MetricCollection:
    metric = student.task.confusion()
    if metric is None:
        raise SettingsError(
            f"The task '{student.task.name}' has no classes to tell apart. Leave out --per-class (in Python, per_class=True)."
        )
    return MetricCollection({"confusion": metric}, compute_groups=False)


def _keep(matrix: ConfusionMatrix, folder: Path, weights: str) -> None:
    """Store the counts in the folder; one that cannot be written to is no reason to withhold them."""
    try:
        matrix.keep(folder, weights)
    except StorageError as error:
        log.warning("Reports will not show the classes: %s", error)
