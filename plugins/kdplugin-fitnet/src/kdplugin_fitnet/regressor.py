"""The regressor of FitNets, which brings the student's map to the shape of the teacher's, or the other way round."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from kdengine import resize_maps

__all__ = ["Regressor"]


class _BatchNorm(nn.BatchNorm2d):
    """Batch normalisation that uses its running statistics where a channel has a single value, and so no variance.

    That is a batch of one image whose map has one position, as the last batch of an epoch may be.
    """

    def forward(self, input: Tensor) -> Tensor:  # torch's name of the argument
        if input.numel() == input.shape[1]:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(input)


class Regressor(nn.Module):
    """Makes two maps comparable: one of them passes through ``change``, which is discarded after training.

    Args:
        change: the trainable part.
        on_student: whether it transforms the student's map; otherwise the teacher's.
    """

    def __init__(self, change: nn.Module, on_student: bool) -> None:
        super().__init__()
        self.change = change
        self.on_student = on_student

    @classmethod
    def towards_teacher(cls, student: Sequence[int], teacher: Sequence[int], rectified: bool, kernel: int = 1) -> Regressor:
        """Convolution and batch normalisation on the student's side, and a ReLU where the teacher's map is the output of one.

        Args:
            student: shape of the student's map, [B, C, H, W].
            teacher: shape of the teacher's map, [B, C, H, W].
            rectified: whether the teacher's map is never negative.
            kernel: kernel size where the maps have one size; where the teacher's is half, it is 3x3 with stride 2, where
                it is double, a transposed 4x4; for any other ratio it is 1x1, and the result is resized.
        """
        layers = [_resizing(student, teacher, kernel), _BatchNorm(teacher[1])]
        return cls(nn.Sequential(*layers, *([nn.ReLU()] if rectified else [])), on_student=True)

    @classmethod
    def towards_student(cls, student: Sequence[int], teacher: Sequence[int]) -> Regressor:
        """A linear map per position on the teacher's side where the widths differ; otherwise the identity."""
        same = student[1] == teacher[1]
        return cls(nn.Identity() if same else nn.Conv2d(teacher[1], student[1], 1, bias=False), on_student=False)

    def forward(self, student_BCHW: Tensor, teacher_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Both maps in one shape; a size that the regressor does not produce is average-pooled or enlarged."""
        if self.on_student:
            student_BCHW = resize_maps(self.change(student_BCHW), teacher_BCHW.shape[2:])
        else:
            teacher_BCHW = resize_maps(self.change(teacher_BCHW), student_BCHW.shape[2:])
        return student_BCHW, teacher_BCHW


def _resizing(source: Sequence[int], target: Sequence[int], kernel: int) -> nn.Module:
    channels, size, wanted = (source[1], target[1]), list(source[2:]), list(target[2:])
    if size == wanted:
        return nn.Conv2d(*channels, kernel, padding=kernel // 2)
    if [(side + 1) // 2 for side in size] == wanted:
        return nn.Conv2d(*channels, 3, stride=2, padding=1)
    if [2 * side for side in size] == wanted:
        return nn.ConvTranspose2d(*channels, 4, stride=2, padding=1)
    return nn.Conv2d(*channels, 1)
