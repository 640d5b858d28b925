"""Pictures of what a student says of some test images, beside their targets and what the teacher says."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from kdengine.data.dataset import Data
from kdengine.networks.modes import evaluating
from kdengine.plugins.hookspecs import hookimpl
from kdengine.runs.result import Result
from kdengine.runs.run import Run
from kdengine.storage.names import SAMPLES
from kdengine.storage.writing import replacing
from kdengine.taps.tensors import logits_of
from kdengine.tasks.task import Task

__all__ = ["Samples", "draw_samples"]

log = logging.getLogger(__name__)

SHOWN = 4
"""Test images that are shown."""
SIDE = 128
"""Shorter side of each picture, in pixels, at least."""
GAP = 4
"""White pixels between pictures."""


class Samples:
    """Observer: leaves ``samples.png`` in the folder of a run whose task draws its outputs."""

    @hookimpl
    def kdengine_after_fit(self, run: Run, result: Result) -> None:
        """Draw image, target, the teacher's answer if there is a teacher, and the student's."""
        if run.data is None or not run.lane.task.draws():
            return
        try:
            asked = [query.teacher.model for query in run.lane.teacher_queries[0]] if run.lane.teacher_queries else []
            picture = draw_samples([*asked, run.lane.to_measure()], run.data, run.lane.task, run)
            with replacing(run.folder.path / SAMPLES) as file:
                picture.save(file, format="png")
        except Exception as error:  # a run is finished without pictures too
            log.warning("'%s' is finished, but has no pictures: %s: %s", run.folder.path, type(error).__name__, error)


def draw_samples(networks: list[nn.Module], data: Data, task: Task, run: Run) -> Image.Image:
    """Some test images with their targets and what networks say, side by side.

    Args:
        networks: take the images of the data.
        data: the data.
        task: draws.
        run: its settings and device.
    """
    few = replace(data, test=data.test.first(SHOWN))
    batch = next(iter(few.test_batches(run.settings.train, run.runtime.device).epoch(0)))
    images, columns = run.runtime.layout(batch.x), [_as_seen(batch.x, data), task.drawn(batch.y)]
    for network in networks:
        with evaluating(network):
            columns.append(task.drawn(logits_of(network(images))))
    return _grid([column.cpu() for column in columns if column is not None])


def _as_seen(images: Tensor, data: Data) -> Tensor:
    """Normalised images [B, C, H, W] as pictures, uint8 [B, 3, H, W]."""
    mean, std = (torch.tensor(values, device=images.device)[:, None, None] for values in (data.mean, data.std))
    seen = ((images * std + mean).clamp(0, 1) * 255).round().to(torch.uint8)
    return seen if seen.shape[1] == 3 else seen[:, :1].expand(-1, 3, -1, -1)


def _grid(columns: list[Tensor]) -> Image.Image:
    """Pictures uint8 [B, 3, h, w] of several sizes as columns of one: a row for each image."""
    height, width = columns[0].shape[2:]
    times = max(1, -(-SIDE // min(height, width)))
    size = height * times, width * times
    pictures = [F.pad(F.interpolate(column, size, mode="nearest"), [0, GAP, 0, GAP], value=255) for column in columns]
    rows = torch.cat([torch.cat(list(column), dim=1) for column in pictures], dim=2)
    return Image.fromarray(rows[:, :-GAP, :-GAP].permute(1, 2, 0).contiguous().numpy())
