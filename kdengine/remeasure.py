"""Measuring the student of a run folder again."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from kdengine.data import load_data
from kdengine.errors import SettingsError
from kdengine.evaluation import evaluate
from kdengine.models import ModelSource
from kdengine.registry import Registry
from kdengine.runfolder import RunFolder
from kdengine.runtime import Runtime
from kdengine.weights import load_weights

__all__ = ["evaluate_folder"]

log = logging.getLogger(__name__)


def evaluate_folder(folder: str | Path, weights: str = "last", data: str | None = None) -> dict[str, Any]:
    """Measure the student of a finished run again.

    Args:
        folder: the run folder.
        weights: ``"last"`` or ``"best"``.
        data: another data spec than the run's.

    Raises:
        KDError: the folder holds no finished run, or its student does not fit the data.
    """
    place = RunFolder(folder)
    settings = place.settings()
    if place.result() is None:
        raise SettingsError(f"The run in '{folder}' is not finished. Go on with it: kdengine run --resume {folder}.")
    if settings.student.startswith("module:"):
        raise SettingsError(f"The student of '{folder}' was a module of the caller's own; only a named network can be rebuilt.")
    registry = Registry()
    spec = data or settings.data
    log.info("Loading %s", spec)
    loaded = load_data(spec, registry)
    runtime = Runtime(settings.train.device, "fp32", settings.train.channels_last)
    model = ModelSource(settings.student, loaded.num_classes, loaded.input_size, registry).create(settings.seed)
    file = {"last": "student.safetensors", "best": "student-best.safetensors"}[weights]
    load_weights(model, place.path / file, f"'{settings.student}'")
    accuracy = evaluate(runtime.place(model), loaded.test_batches(settings.train, runtime.device), runtime)
    return {"student": settings.student, "weights": weights, "data": spec, **accuracy}
