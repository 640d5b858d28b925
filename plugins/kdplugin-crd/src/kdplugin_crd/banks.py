"""The memories of both networks, and the loss against them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdengine import Processes, l2_normalize
from kdplugin_crd.estimation import contrast, log_normaliser, scores

__all__ = ["Banks"]

# B: batch, N: training images, D: length of an embedding, K: negatives of an image.

ROWS = 128
"""Images whose scores are computed at a time, so that memory does not grow with the batch."""

ALONE = Processes()
Draw = Callable[[Tensor], Tensor]
"""Positions of images [B] -> the same in column 0, then those of their negatives, [B, 1 + K]."""


class Banks(nn.Module):
    """A memory of the embeddings of all training images for each network, and the constants Z of both scores.

    Z is that of the first batch, and stays.

    Args:
        count: number N of training images.
        length: length D of the embeddings.
        temperature: temperature of the scores.
        momentum: share of the old value that an entry keeps when its image is seen again.
    """

    student_ND: Tensor
    teacher_ND: Tensor
    log_z: Tensor

    def __init__(self, count: int, length: int, temperature: float, momentum: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.momentum = momentum
        bound = 1 / math.sqrt(length / 3)  # vectors of norm 1 on average
        self.register_buffer("student_ND", torch.empty(count, length).uniform_(-bound, bound))
        self.register_buffer("teacher_ND", torch.empty(count, length).uniform_(-bound, bound))
        self.register_buffer("log_z", torch.full((2,), math.nan))  # of the student's scores, and of the teacher's
        self._is_settled = False

    def forward(
        self, student_BD: Tensor, teacher_BD: Tensor, index_B: Tensor, draw: Draw, processes: Processes = ALONE
    ) -> Tensor:
        """The loss of both directions, mean over the batch; []. The memories then take up the batch, that of all processes.

        Args:
            student_BD: unit vectors of the student.
            teacher_BD: unit vectors of the teacher.
            index_B: positions of the images in the training set.
            draw: gives the negatives.
            processes: those that share the batch.
        """
        loss: Tensor = _Contrast.apply(student_BD, teacher_BD, index_B, draw, self, processes)
        self.take_up(*map(processes.gathered, (index_B, student_BD, teacher_BD)))
        return loss

    def sides(self, student_BD: Tensor, teacher_BD: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """The anchors of each network, with the memory of the other that they are compared with."""
        return (student_BD, self.teacher_ND), (teacher_BD, self.student_ND)

    def settle(self, student_BD: Tensor, teacher_BD: Tensor, places: Sequence[Tensor], processes: Processes = ALONE) -> None:
        """Take Z from this batch, of all processes, unless it was taken before the run was interrupted."""
        first = []
        for anchors, memory in self.sides(student_BD, teacher_BD):
            parts = [scores(part, memory, rows) for part, rows in zip(anchors.split(ROWS), places, strict=True)]
            first.append(log_normaliser(torch.cat(parts) / self.temperature, len(memory)))
        images_P = processes.stacked(first[0].new_tensor(len(student_BD)))
        # Z is a mean over all scores, and so that of the processes, each counted by its images
        first_2 = (processes.stacked(torch.stack(first)) + (images_P / images_P.sum()).log()[:, None]).logsumexp(0)
        # chosen on the device, which a question on its values would make the step wait for
        self.log_z.copy_(torch.where(self.log_z.isnan(), first_2, self.log_z))
        self._is_settled = True

    @torch.no_grad()
    def take_up(self, index_B: Tensor, student_BD: Tensor, teacher_BD: Tensor) -> None:
        """Move the entries of a batch towards its vectors: m <- norm(momentum m + (1 - momentum) u)."""
        for memory, seen in ((self.student_ND, student_BD), (self.teacher_ND, teacher_BD)):
            moved = self.momentum * memory[index_B] + (1 - self.momentum) * seen
            memory.index_copy_(0, index_B, l2_normalize(moved))


class _Contrast(torch.autograd.Function):
    """Loss and gradients of both directions in one pass over the batch, some images at a time."""

    @staticmethod
    def forward(
        ctx: Any, student: Tensor, teacher: Tensor, index: Tensor, draw: Draw, banks: Banks, processes: Processes
    ) -> Tensor:
        places = [draw(part) for part in index.split(ROWS)]
        if not banks._is_settled:
            banks.settle(student, teacher, places, processes)
        total, slopes = student.new_zeros(()), []
        for (anchors, memory), log_z in zip(banks.sides(student, teacher), banks.log_z, strict=True):
            parts = [
                contrast(part, memory, rows, log_z, banks.temperature)
                for part, rows in zip(anchors.split(ROWS), places, strict=True)
            ]
            total += torch.stack([loss for loss, _ in parts]).sum()
            slopes.append(torch.cat([slope for _, slope in parts]) / len(index))
        ctx.save_for_backward(*slopes)
        return total / len(index)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        of_student, of_teacher = ctx.saved_tensors
        return gradients[0] * of_student, gradients[0] * of_teacher, None, None, None, None
