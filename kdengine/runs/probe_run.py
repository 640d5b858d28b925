"""Probes of the student of a run folder: how well its embedding tells the classes of labelled images apart."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdengine.data.dataset import Data
from kdengine.data.load import load_data
from kdengine.errors import DataError, KDError
from kdengine.networks.inputs import ImageSpec, Preprocess
from kdengine.networks.models import ModelSource
from kdengine.plugins.registry import Registry
from kdengine.runs.past_student import PastStudent
from kdengine.runs.session import Session
from kdengine.storage.writing import write_json
from kdengine.taps import Anatomy, Recorder
from kdengine.tasks.task import Task
from kdengine.training.probing import embedded, linear_accuracy, nearest_accuracy
from kdengine.training.runtime import Runtime

__all__ = ["FILE", "data_to_probe", "probe_folder"]

log = logging.getLogger(__name__)

FILE = "probe.json"
"""The file of a run folder with its last probe."""


def probe_folder(folder: str | Path, data: str, weights: str = "last", trust: bool = False) -> dict[str, Any]:
    """Probe the student of a finished run, the same network untrained, and its teachers, and keep the result in the folder.

    Args:
        folder: the run folder.
        data: spec of images with a class each; embeddings of its training images classify its test images.
        weights: ``"last"``, ``"best"`` or ``"ema"``, the moving average.
        trust: run third-party code that the folder names: ``python:`` specs.

    Returns:
        ``data``, and ``networks``: for each its ``role``, ``name``, ``knn`` and ``linear``, accuracies in percent.

    Raises:
        KDError: the folder holds no finished run, or the data has no classes.
    """
    student = PastStudent.open(folder, weights, trust=trust, images=False)
    known = data_to_probe(data, student.registry)
    train = student.settings.train
    runtime = Runtime(train.device, "fp32", train.channels_last, alone=True)
    rows = []
    for role, name, network, preprocess in _networks(student, known):
        log.info("Probing %s", name if role == "student" else f"{name}, {role}")
        embed = _embedding(runtime.place(network.eval()), preprocess, student.task, runtime)
        seen, unseen = (embedded(embed, batches) for batches in _batches(known, student, runtime.device))
        rows.append(
            {"role": role, "name": name, "knn": nearest_accuracy(seen, unseen), "linear": linear_accuracy(seen, unseen)}
        )
    facts = {"data": data, "weights": weights, "networks": rows}
    write_json(Path(folder) / FILE, facts)
    return facts


def data_to_probe(data: str, registry: Registry) -> Data:
    """The labelled data that a probe names.

    Raises:
        DataError: there is none, or its images do not have one class each.
    """
    known = load_data(data, registry)
    if known.task != "classification":
        raise DataError(f"'{data}' is for the task '{known.task}', but a probe needs one class for each image.")
    return known


def _networks(student: PastStudent, data: Data) -> Iterator[tuple[str, str, nn.Module, Preprocess]]:
    """The student, the same untrained, and the teachers that the folder can rebuild: role, name, network, preprocessing."""
    name = student.settings.student
    given = ImageSpec(data.input_size, data.mean, data.std)
    preprocess = Preprocess(given, student.preprocess.wanted)
    yield "student", name, student.network, preprocess
    options, size = student.task.network_options(), preprocess.wanted.size
    yield "untrained", name, ModelSource(name, options, size, student.registry).create(student.settings.seed), preprocess
    for teacher in _teachers(student):
        yield teacher.role, teacher.network.name, teacher.network.module, Preprocess(given, teacher.network.preprocess.wanted)


def _teachers(student: PastStudent) -> tuple[Any, ...]:
    """The teachers of the run with their weights; none where they were modules, or were trained for the run."""
    settings = student.settings
    if settings.teacher is None or any(spec.startswith("module:") for spec in settings.teachers):
        return ()
    with suppress(KDError):  # a weights file may be gone
        session = Session.open(settings, student.registry, data=student.data, alone=True)
        return tuple(teacher for teacher in session.teachers if not teacher.is_trained_first)
    return ()


def _embedding(network: nn.Module, preprocess: Preprocess, task: Task, runtime: Runtime) -> Callable[[Tensor], Tensor]:
    """Images of the data -> embeddings [B, D]: the network's output if it has no classifier, else what that receives."""
    taps = [] if task.outputs == "embedding" else ["embedding"]
    recorder = Recorder(network, taps, Anatomy.of(network, preprocess.wanted.size))

    def embed(images: Tensor) -> Tensor:
        with recorder:
            trace = recorder(preprocess(runtime.layout(images)))
        return trace["embedding"] if taps else trace.logits

    return embed


def _batches(data: Data, student: PastStudent, device: torch.device) -> Iterator[Any]:
    """The training images of the data as they are, not augmented, then its test images."""
    for split in (data.train, data.test):
        yield replace(data, test=split).test_batches(student.settings.train, device)
