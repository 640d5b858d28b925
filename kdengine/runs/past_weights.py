"""Metadata that a run folder keeps about its weights."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdengine.config.settings import InputSettings
from kdengine.data.class_names import check_class_names
from kdengine.data.dataset import Data
from kdengine.storage.runfolder import RunFolder

__all__ = ["check_classes", "input_of_run"]

OF_A_STUDENT = ("student.safetensors", "student-best.safetensors")


def input_of_run(weights: str) -> InputSettings:
    """The input that the student of a run was trained on; empty if the weights do not come from a finished run.

    Args:
        weights: a weights file or a run folder.
    """
    received = dict(_result(weights).get("student", {}).get("input", {}))
    if received:
        received["size"] = received["size"][1:]
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


def _result(weights: str) -> Mapping[str, Any]:
    """The result of the run that the weights come from; empty unless they are the student of a finished run."""
    path = Path(os.path.expanduser(weights))
    is_folder = os.path.isdir(path)
    if not is_folder and path.name not in OF_A_STUDENT:
        return {}
    return RunFolder(path if is_folder else path.parent).result() or {}
