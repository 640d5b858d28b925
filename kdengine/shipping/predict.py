"""What the student of a run says about image files."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from kdengine.data import decoding
from kdengine.data.dataset import Split
from kdengine.data.rgb import as_rgb
from kdengine.errors import DataError
from kdengine.runs.past_student import PastStudent
from kdengine.taps import Recorder
from kdengine.training.runtime import Runtime

__all__ = ["image_files", "predict"]

AT_ONCE = 64
"""Images that are decoded and predicted together."""


def predict(
    folder: str | Path, images: Sequence[str | Path], top: int = 3, weights: str = "last", trust: bool = False
) -> dict[str, Any]:
    """Predict images with the student of a finished run, prepared as the images of its data were.

    Args:
        folder: the run folder.
        images: image files, folders of them, or patterns such as ``photos/*.jpg``.
        top: answers per image, for tasks that rank several.
        weights: ``"last"``, ``"best"`` or ``"ema"``, the moving average.
        trust: run third-party code that the folder names.

    Returns:
        ``student`` and ``weights``; ``images``: for each image its file and its ``predictions``, which the task defines;
        ``unreadable``: file and ``error`` of each image that cannot be read.

    Raises:
        KDError: the folder holds no finished run, or its student does not take the images of files.
    """
    student = PastStudent.open(folder, weights, trust=trust, device="auto", images=False)
    _check_takes_files(student, folder)
    runtime = Runtime("auto", "fp32", student.settings.train.channels_last, alone=True)
    runtime.place(student.network)
    answered: list[dict[str, Any]] = []
    unreadable: list[dict[str, Any]] = []
    named = list(image_files(images))
    for start in range(0, len(named), AT_ONCE):
        decoded = _decoded(named[start : start + AT_ONCE], student.data.input_size, student.data.test.fitting)
        unreadable += [{"image": file, "error": str(pixels)} for file, pixels in decoded if isinstance(pixels, DataError)]
        good = [(file, pixels) for file, pixels in decoded if isinstance(pixels, Tensor)]
        if good:
            logits = _logits(student, torch.stack([pixels for _, pixels in good]), runtime)
            said = student.task.predictions(logits, student.classes, top)
            answered += [{"image": file, "predictions": rows} for (file, _), rows in zip(good, said, strict=True)]
    return {"student": student.settings.student, "weights": weights, "images": answered, "unreadable": unreadable}


def image_files(named: Sequence[str | Path]) -> Iterator[str]:
    """The files that arguments name, in their order: images below folders and matches of patterns are sorted.

    A name that leads to no file is given as it is, and fails when it is read.
    """
    from torchvision.datasets.folder import IMG_EXTENSIONS

    for name in map(str, named):
        if os.path.isdir(name):
            below = sorted(str(path) for path in Path(name).rglob("*") if path.suffix.lower() in IMG_EXTENSIONS)
            yield from below or [name]
        elif os.path.exists(name):
            yield name
        else:
            yield from sorted(glob.glob(name, recursive=True)) or [name]


def _check_takes_files(student: PastStudent, folder: str | Path) -> None:
    """Refuse students whose images cannot be made from files.

    Raises:
        DataError: says why.
    """
    data = student.data
    if not data.mean:
        raise DataError(
            f"The run in '{folder}' was trained on loaders of your own, so it does not record how images are normalised. "
            "Export the student with --raw, or call it in Python on images from your loaders."
        )
    if data.input_size[0] != 3:
        raise DataError(
            f"The student of '{folder}' takes images with {data.input_size[0]} channels, but files are decoded to 3, as RGB. "
            "Call the student in Python."
        )


def _decoded(
    files: Sequence[str], size: tuple[int, int, int], fitting: decoding.Fitting
) -> list[tuple[str, Tensor | DataError]]:
    """Each file with its image as the data would have it, uint8 [3, H, W], or why it cannot be read."""

    def one(file: str) -> Tensor | DataError:
        if os.path.isdir(file):
            return DataError(f"'{file}' cannot be read: it is a folder without images.")
        try:
            return decoding.pixels(_Files([file]), 0, size[2], size[1], fitting=fitting)
        except DataError as error:
            return DataError(f"'{file}' {str(error).removeprefix('Image 0 ')}")

    with ThreadPoolExecutor() as pool:
        return list(zip(files, pool.map(one, files), strict=True))


class _Files(Sequence[Any]):
    """Image files as items of a data set: (PIL image, label)."""

    def __init__(self, files: Sequence[str]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: Any) -> Any:
        with Image.open(self.files[index]) as image:
            return as_rgb(image), 0


def _logits(student: PastStudent, images: Tensor, runtime: Runtime) -> Tensor:
    """Outputs for uint8 [B, 3, H, W], float32 on the CPU; the images pass through the batches of the data."""
    split = Split(torch.zeros(len(images), dtype=torch.int64), images)
    network = student.preprocess.before(student.network).eval()
    outputs = []
    for batch in replace(student.data, test=split).test_batches(student.settings.train, runtime.device).epoch(0):
        with torch.no_grad(), Recorder(network, {}) as recorder:
            outputs.append(recorder(runtime.layout(batch.x)).logits)
    return torch.cat(outputs).cpu()
