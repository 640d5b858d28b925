"""Measuring accuracy: of a network on batches, and of the student that lies in a run folder."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from kdengine.batches import Batches
from kdengine.data import load_data
from kdengine.errors import SettingsError, TrainingError
from kdengine.models import ModelSource
from kdengine.registry import Registry
from kdengine.runfolder import RunFolder
from kdengine.runtime import Runtime
from kdengine.taps import Recorder
from kdengine.weights import load_weights

__all__ = ["evaluate", "evaluate_folder"]

log = logging.getLogger(__name__)


def evaluate(model: nn.Module, batches: Batches, runtime: Runtime) -> dict[str, float]:
    """Top-1 and top-5 accuracy in percent and mean cross-entropy, in fp32, so that any other program finds the same.

    Raises:
        TrainingError: there is nothing to evaluate on.
    """
    was_training = model.training
    model.eval()
    seen, right, right5, loss = 0, 0, 0, 0.0
    with torch.no_grad():
        for batch in batches.epoch(0):
            with Recorder(model, {}) as recorder:
                logits = recorder(runtime.layout(batch.x)).logits
            ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices == batch.y[:, None]
            seen += len(batch.y)
            right += int(ranked[:, 0].sum())
            right5 += int(ranked.sum())
            loss += float(F.cross_entropy(logits, batch.y, reduction="sum"))
    model.train(was_training)
    if seen == 0:
        raise TrainingError("There are no test images, so no accuracy can be measured.")
    return {"top1": 100.0 * right / seen, "top5": 100.0 * right5 / seen, "loss": loss / seen}


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
