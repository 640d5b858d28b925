"""Weights that a run starts from, and what a run folder keeps about them."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from kdengine.config.settings import InputSettings, Settings
from kdengine.data.class_names import check_class_names
from kdengine.data.dataset import Data
from kdengine.errors import ModelError, missing
from kdengine.networks.fitting import Head, Part
from kdengine.networks.models import check_name
from kdengine.networks.network import Network
from kdengine.networks.weights import OtherHead, load_weights, load_weights_of_body
from kdengine.plugins.registry import Registry
from kdengine.runs.teachers import Named, is_teacher, named_teachers
from kdengine.storage.names import BEST, LAST, PUBLISHED
from kdengine.storage.runfolder import RunFolder
from kdengine.tasks.task import Task

__all__ = ["check_classes", "check_networks", "input_of_run", "load_student", "load_teacher"]

OF_A_STUDENT = (LAST, BEST, PUBLISHED)


def input_of_run(weights: str, task: Task | None = None) -> InputSettings:
    """The input that the student of a run was trained on; empty if the weights do not come from a finished run.

    Args:
        weights: a weights file or a run folder.
        task: what the weights are for. Where that is pixels, and was not in that run, images keep their own size.
    """
    result = _result(weights)
    received = dict(result.get("student", {}).get("input", {}))
    as_trained = task is None or task.outputs != "pixels" or result.get("task", {}).get("name") == task.name
    if received:
        received["size"] = received["size"][1:] if as_trained else None
    return InputSettings.checked(received, owner=weights)


def check_classes(weights: str, data: Data | None) -> None:
    """Reject weights from a run whose class names, or their order, differ from those of the data.

    Args:
        weights: a weights file or a run folder.
        data: the data that the network will be used on; None if its classes have no names.

    Raises:
        DataError: lists the first differences.
    """
    if data is not None:
        check_class_names(_result(weights).get("data", {}).get("classes"), data, f"the weights of '{weights}'")


def load_teacher(teacher: Network, weights: str, data: Data | None, data_name: str) -> None:
    """Load a teacher's weights, which must be those of a network trained for these classes.

    Args:
        teacher: receives the weights.
        weights: a weights file or a run folder.
        data: the data of the run; None for loaders of the user's own.
        data_name: the data as the settings name them, for errors.

    Raises:
        ModelError: they do not fit; if only the number of classes differs, the message says how to train them for the data.
        DataError: the classes, or their order, differ from those of the data.
    """
    try:
        load_weights(teacher.module, weights, f"the teacher '{teacher.name}'")
    except OtherHead as error:
        head = error.head
        command = ["kdengine", "train", "--model", teacher.name, "--weights", weights, "--data", data_name]
        raise ModelError(
            f"The weights in '{weights}' are of a '{teacher.name}' with {head.outputs_before} outputs ('{head.path}'), but the "
            f"data has {head.outputs} classes, so as a teacher it would know none of them. Train it for this data first: "
            f"{shlex.join(command)} loads all but the head; then give the folder of that run as --teacher-weights."
        ) from error
    check_classes(weights, data)


def load_student(student: Network, weights: str, data: Data | None) -> Head | Part | None:
    """Load the weights that a student starts from; the head of a network for other classes is left out.

    Those of a network that is only a part of the student, its backbone, fill that part.

    Args:
        student: receives the weights.
        weights: a weights file or a run folder.
        data: the data of the run; None for loaders of the user's own.

    Returns:
        the head that starts fresh, or the part that does not; None if all weights were loaded.

    Raises:
        ModelError: the weights differ in more than the head.
        DataError: they are of the same classes in another order.
    """
    stored = _result(weights).get("data", {}).get("classes")
    of_other_classes = stored is not None and data is not None and sorted(stored) != sorted(data.classes)
    if not of_other_classes:
        check_classes(weights, data)
    what, classifier = f"the student '{student.name}'", student.anatomy.classifier
    return load_weights_of_body(student.module, weights, what, classifier, keep_head=not of_other_classes)


def _result(weights: str) -> Mapping[str, Any]:
    """The result of the run that the weights come from; empty unless they are the student of a finished run."""
    path = Path(os.path.expanduser(weights))
    is_folder = os.path.isdir(path)
    if not is_folder and path.name not in OF_A_STUDENT:
        return {}
    return RunFolder(path if is_folder else path.parent).result() or {}


def check_networks(settings: Settings, modules: Mapping[str, nn.Module], registry: Registry) -> None:
    """Reject unknown networks and missing weights before reading the data, which may take a while.

    Raises:
        ModelError: a network or a weights file does not exist.
    """
    student = Named("student", settings.student, settings.student_weights)
    networks = [*named_teachers(settings), student]
    for network in networks:
        if network.role not in modules:
            check_name(network.spec, registry)
    flags = {"teacher": "--teacher-weights", "student": "--student-weights, or --weights of 'kdengine train'"}
    for network in networks:
        if network.weights is not None and not os.path.exists(os.path.expanduser(network.weights)):
            flag = flags["teacher" if is_teacher(network.role) else "student"]
            raise ModelError(f"{missing('weights file', network.weights)} Check {network.weights_setting} ({flag}).")
