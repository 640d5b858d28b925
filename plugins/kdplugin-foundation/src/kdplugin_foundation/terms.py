"""What compares the predictions of the student with the teacher: image by image, and position by position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from kdengine import l2_normalize, resize_maps

__all__ = ["Distance", "Grid", "embedding_loss", "patch_loss"]

# B: images of a batch; S, D: channels of student and teacher.

Distance = Literal["cosine", "mse"]
Grid = Literal["teacher", "smaller"]


def embedding_loss(predicted_BD: Tensor, teacher_BD: Tensor, distance: Distance = "cosine") -> Tensor:
    """Distance of the predicted embeddings from the teacher's, mean over the batch; [].

    Args:
        predicted_BD: what the student predicts of the teacher's embeddings, [B, D].
        teacher_BD: the teacher's embeddings, [B, D].
        distance: ``cosine``, 1 - cos; or ``mse``, the mean over channels of the squared difference from the teacher's
            embedding scaled to a mean square of 1, which a prediction of nothing but zeros costs.
    """
    direction_BD = l2_normalize(teacher_BD)
    if distance == "mse":
        return F.mse_loss(predicted_BD, direction_BD * teacher_BD.shape[1] ** 0.5)
    return 1 - (l2_normalize(predicted_BD) * direction_BD).sum(1).mean()


def patch_loss(adapter: nn.Module, student_BSHW: Tensor, teacher_BDHW: Tensor, grid: Grid = "teacher") -> Tensor:
    """1 - cos of what the student predicts at each position and what the teacher has there, mean over all positions; [].

    Args:
        adapter: a linear map of the channels at every position, S -> D.
        student_BSHW: the student's map, [B, S, H, W].
        teacher_BDHW: the teacher's map, [B, D, H', W'].
        grid: where they are compared: at the teacher's positions, or on the smaller height and width of the two.
    """
    size = _size(student_BSHW.shape[2:], teacher_BDHW.shape[2:], grid)
    predicted_BDHW = _onto(size, adapter, student_BSHW)
    cosines_BHW = (l2_normalize(predicted_BDHW, dim=1) * l2_normalize(resize_maps(teacher_BDHW, size), dim=1)).sum(1)
    return 1 - cosines_BHW.mean()


def _size(student: Sequence[int], teacher: Sequence[int], grid: Grid) -> list[int]:
    """Height and width of the grid on which two maps are compared."""
    return list(teacher) if grid == "teacher" else [min(sides) for sides in zip(student, teacher, strict=True)]


def _onto(size: Sequence[int], adapter: nn.Module, maps_BSHW: Tensor) -> Tensor:
    """The adapted map on another grid; the linear adapter may come before or after, so it runs where positions are fewer."""
    if maps_BSHW.shape[2] * maps_BSHW.shape[3] < size[0] * size[1]:
        return resize_maps(adapter(maps_BSHW), size)
    adapted: Tensor = adapter(resize_maps(maps_BSHW, size))
    return adapted
