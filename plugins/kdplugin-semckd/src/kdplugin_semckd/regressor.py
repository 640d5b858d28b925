"""The regressor that predicts a map of the teacher from a map of the student."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from kdengine import Adapter

__all__ = ["regressor"]


class _BatchNorm(nn.BatchNorm2d):
    """Batch normalisation that uses its running statistics where a channel has a single value, and so no variance."""

    def forward(self, input: Tensor) -> Tensor:  # torch's name of the argument
        if input.numel() == input.shape[1]:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(input)


def regressor(student: int, teacher: int, kind: str = "bottleneck") -> nn.Module:
    """A network from the student's channels to the teacher's, which keeps height and width.

    Args:
        student: channels of the student's map.
        teacher: channels C of the teacher's map.
        kind: ``"bottleneck"``, convolutions of 1x1, 3x3 and 1x1 with 2 C channels between them, normalised and rectified
            after the first two; or ``"linear"``, one of 1x1, normalised.
    """
    if kind == "linear":
        return Adapter(student, teacher)
    middle = 2 * teacher
    return nn.Sequential(
        nn.Conv2d(student, middle, 1, bias=False),
        _BatchNorm(middle),
        nn.ReLU(inplace=True),
        nn.Conv2d(middle, middle, 3, padding=1, bias=False),
        _BatchNorm(middle),
        nn.ReLU(inplace=True),
        nn.Conv2d(middle, teacher, 1, bias=False),
    )
