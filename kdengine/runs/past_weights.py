"""What a run folder says of the weights that it holds."""

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
    """The images that the student of a run received; nothing where the weights are not those of a finished run.

    Args:
        weights: a file of weights, or a run folder.
    """
    received = dict(_result(weights).get("student", {}).get("input", {}))
    if received:
        received["size"] = received["size"][1:]
    return InputSettings.checked(received, owner=weights)


def check_classes(weights: str, data: Data | None) -> None:
    """Refuse weights of a run whose data had other classes, or had them in another order.

    Args:
        weights: a file of weights, or a run folder.
        data: what the network is to be used on; None where its classes have no names.

    Raises:
        DataError: with the first differences.
    """
    if data is not None:
        check_class_names(_result(weights).get("data", {}).get("classes"), data, f"the weights of '{weights}'")


def _result(weights: str) -> Mapping[str, Any]:
    """What the run says that the weights came from; empty where they are not those of a finished run's student."""
    path = Path(os.path.expanduser(weights))
    is_folder = os.path.isdir(path)
    if not is_folder and path.name not in OF_A_STUDENT:
        return {}
    return RunFolder(path if is_folder else path.parent).result() or {}
