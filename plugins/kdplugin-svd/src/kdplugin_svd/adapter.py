"""The adapter: gives the student's map as many channels as the teacher's."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Adapter"]


class Adapter(nn.Module):
    """A linear map per place and batch normalisation; thrown away after training.

    Args:
        student: channels of the student's map.
        teacher: channels of the teacher's.
    """

    def __init__(self, student: int, teacher: int) -> None:
        super().__init__()
        self.linear = nn.Conv2d(student, teacher, 1, bias=False)
        self.norm = nn.BatchNorm2d(teacher)

    @classmethod
    def between(cls, student: int, teacher: int) -> nn.Module:
        """An adapter where the widths differ; else nothing."""
        return nn.Identity() if student == teacher else cls(student, teacher)

    def forward(self, maps_BCHW: Tensor) -> Tensor:
        """Maps [B, C, H, W] -> [B, C', H, W]; a single value a channel has no statistics, so the running ones serve."""
        mapped = self.linear(maps_BCHW)
        if mapped[:, 0].numel() > 1:
            return self.norm(mapped)
        return F.batch_norm(mapped, self.norm.running_mean, self.norm.running_var, self.norm.weight, self.norm.bias)
