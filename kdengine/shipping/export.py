"""Exports the student of a run to a file that runs elsewhere, and checks it on real images before it counts."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from kdengine._version import __version__
from kdengine.errors import SettingsError
from kdengine.runs.past_student import WEIGHTS, PastStudent
from kdengine.shipping.exportable import Exportable
from kdengine.shipping.formats import FORMATS, Safetensors
from kdengine.shipping.parity import Sample, largest_difference
from kdengine.storage.writing import replacing

__all__ = ["export_student"]

CHECKED = 8
"""Test images that a file is checked on, or a few more, to fill the last batch."""


def export_student(
    folder: str | Path,
    to: str,
    out: str | Path | None = None,
    *,
    weights: str = "last",
    batch: int | None = None,
    raw: bool = False,
    data: str | None = None,
    trust: bool = False,
) -> dict[str, Any]:
    """Export the student of a finished run, or the network that its methods deploy.

    The file takes images [B, C, H, W] of the size of the data, float32 from 0 to 1; normalisation and resize are part of it.

    Args:
        folder: the run folder.
        to: ``"onnx"``, ``"torch-export"`` or ``"safetensors"``.
        out: the file; by default ``export.onnx``, ``export.pt2`` or ``export.safetensors`` in the folder.
        weights: ``"last"``, ``"best"`` or ``"ema"``, the moving average.
        batch: number of images in every batch; None for any.
        raw: leave normalisation and resize to the caller.
        data: a data spec to check the file on instead of the run's.
        trust: run third-party code that the folder names.

    Returns:
        ``file``, ``format``, ``bytes``, ``outputs``, ``notes``, and the largest ``difference`` over so many test ``images``.

    Raises:
        KDError: as for ``evaluate``; or a package is missing, the network cannot be exported, or the file does not give what
            the student gives. No file is left behind then, and an earlier one is kept.
    """
    kind = FORMATS[to]
    kind.check()
    if kind is Safetensors and (raw or batch is not None):
        raise SettingsError("safetensors holds weights alone. Leave out --raw and --batch, which belong to graphs.")
    file = Path(folder) / f"export{kind.suffix}"
    if out is not None:
        file = _checked(Path(out), Path(folder))
    student = PastStudent.open(folder, weights, data=data, trust=trust, device="cpu")
    module = Exportable(student.network.cpu().float(), student.preprocess, raw or kind is Safetensors)
    parts = _parts(batch)
    sample = Sample.of(student, parts[-1].stop)
    given = sample.received if module.raw else sample.images.float() / 255
    notes = _notes(student, module, weights, batch)
    writer = kind(module, batch, {name: _text(value) for name, value in notes.items()})
    with replacing(file) as temporary:
        writer.write(temporary)
        difference = largest_difference(writer.read(temporary), given, sample, parts)
        size = temporary.stat().st_size
    facts = {"file": str(file), "format": to, "bytes": size, "outputs": student.task.num_outputs, "notes": notes}
    facts["output_size"] = list(sample.logits.shape[1:])
    return {**facts, "images": len(sample.images), "difference": difference}


def _parts(batch: int | None) -> list[slice]:
    """The images of each batch to check: of any size, the first alone and then all; else one batch after another."""
    if batch is None:
        return [slice(0, 1), slice(0, CHECKED)]
    return [slice(start, start + batch) for start in range(0, CHECKED, batch)]


def _checked(file: Path, folder: Path) -> Path:
    """The file, unless it cannot be written or is one of the run's own.

    Raises:
        SettingsError: says which.
    """
    if os.path.isdir(file) or not os.path.isdir(file.absolute().parent):  # unlike Path.is_dir, false for any odd text
        raise SettingsError(f"--out '{file}' is not a file in a folder that exists. Name one.")
    if file.absolute().parent == folder.absolute() and file.name in (*WEIGHTS.values(), "connectors.safetensors"):
        raise SettingsError(f"--out '{file}' is a file of the run itself. Choose another name.")
    return file


def _notes(student: PastStudent, module: Exportable, weights: str, batch: int | None) -> dict[str, Any]:
    """What the file says about itself: how to prepare images, and what the outputs mean."""
    wanted, given = student.preprocess.wanted, student.preprocess.given
    return {
        "kdengine_version": __version__,
        "network": student.settings.student,
        "methods": list(student.result.get("methods", ())),
        "weights": weights,
        "task": student.task.name,
        "classes": list(student.classes),
        "batch": "any" if batch is None else batch,
        "input_size": list(module.input_size),
        "input_values": "normalised by mean and std" if module.raw else "0 to 1, not normalised",
        "mean": list(wanted.mean or given.mean or ()),
        "std": list(wanted.std or given.std or ()),
    }


def _text(value: Any) -> str:
    """Metadata holds text: words as they are, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)
