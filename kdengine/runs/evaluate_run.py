"""Re-evaluation of the student in a run folder."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from kdengine.config.settings import Settings
from kdengine.config.trust import check_trusted
from kdengine.data.class_names import check_class_names
from kdengine.data.dataset import Data
from kdengine.data.load import load_data
from kdengine.errors import SettingsError
from kdengine.networks.inputs import ImageSpec, Preprocess
from kdengine.networks.models import ModelSource
from kdengine.networks.weights import load_weights
from kdengine.plugins.registry import Registry
from kdengine.plugins.selection import choose_distillers
from kdengine.runs.session import Session
from kdengine.storage.runfolder import RunFolder
from kdengine.training.evaluation import evaluate
from kdengine.training.runtime import Runtime

__all__ = ["evaluate_folder"]

log = logging.getLogger(__name__)


def evaluate_folder(folder: str | Path, weights: str = "last", data: str | None = None, trust: bool = False) -> dict[str, Any]:
    """Re-evaluate the student of a finished run.

    Args:
        folder: the run folder.
        weights: ``"last"`` or ``"best"``.
        data: a data spec to use instead of the run's.
        trust: run third-party code that the folder names: ``python:`` specs.

    Raises:
        KDError: the folder holds no finished run, or its student does not match the shape or classes of the data.
    """
    files = RunFolder(folder)
    settings, result = files.settings(), files.result()
    if result is None:
        raise SettingsError(f"The run in '{folder}' is not finished. Resume it: kdengine run --resume {folder}.")
    if settings.student.startswith("module:"):
        raise SettingsError(f"The student of '{folder}' was passed as a module; only a network given by name can be rebuilt.")
    deployed_by = result.get("deployed_by", ())
    check_trusted(_used(settings, data, bool(deployed_by)), files.path / "run.toml", trust)
    registry, spec = Registry(), data or settings.data
    log.info("Loading %s", spec)
    loaded = load_data(spec, registry)
    check_class_names(result.get("data", {}).get("classes"), loaded, f"the student of '{folder}'")
    runtime = Runtime(settings.train.device, "fp32", settings.train.channels_last)
    task = registry.task(settings.task or loaded.task).of(loaded, settings.train)
    preprocess = _preprocess(result["student"].get("input"), loaded)
    if deployed_by:
        network = _deployed(settings, files, loaded, registry)
    else:
        network = ModelSource(settings.student, task.network_options(), preprocess.wanted.size, registry).create(settings.seed)
    file = {"last": "student.safetensors", "best": "student-best.safetensors"}[weights]
    load_weights(network, files.path / file, f"'{settings.student}'")
    batches = loaded.test_batches(settings.train, runtime.device)
    scores = evaluate(preprocess.before(runtime.place(network)), batches, task, runtime)
    return {"student": settings.student, "weights": weights, "data": spec, **scores}


def _used(settings: Settings, data: str | None, with_methods: bool) -> dict[str, Any]:
    """The settings that may name code to run."""
    used: dict[str, Any] = {"student": settings.student, **({} if data else {"data": settings.data})}
    return {**used, "teacher": settings.teacher, "methods": settings.methods} if with_methods else used


def _deployed(settings: Settings, files: RunFolder, data: Data, registry: Registry) -> nn.Module:
    """The network that the run's methods deploy; its lane is rebuilt only to obtain the architecture.

    Raises:
        KDError: a network or a method cannot be rebuilt, or was passed as an object.
    """
    own = settings.model_copy(update={"teacher_weights": None, "student_weights": None})
    session = Session.open(own, registry, data=data, alone=True)
    distillers = choose_distillers(settings.methods, settings.options, registry)
    lane = session.lane("evaluate", session.student(), distillers)
    connectors = files.path / "connectors.safetensors"
    if connectors.is_file():
        load_weights(lane.chain[-1].module.distillers, connectors, "the connectors")
    return lane.deployment.of(lane.student)


def _preprocess(received: Mapping[str, Any] | None, data: Data) -> Preprocess:
    """The preprocessing that the student had in its run; none if the folder does not record it."""
    if received is None:
        return Preprocess.none(data.input_size)
    channels, rows, columns = received["size"]
    mean, std = (tuple(received[name]) if name in received else None for name in ("mean", "std"))
    given = ImageSpec(data.input_size, data.mean, data.std)
    return Preprocess(given, ImageSpec((channels, rows, columns), mean, std))
