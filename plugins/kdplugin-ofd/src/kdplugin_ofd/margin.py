"""The margin of every channel of the teacher, below which its responses do not count."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from kdengine import ModuleView, Processes

__all__ = ["Margin", "margins_of_batch", "margins_of_norm"]

ALONE = Processes()
RARE = 1e-3
"""Share of negative responses at and below which a channel counts as having none."""
SMALLEST = 1e-12
"""Smallest scale of a normalisation that a shift is divided by."""


def margins_of_norm(shift_C: Tensor, scale_C: Tensor) -> Tensor:
    """The mean of the negative responses that a batch normalisation gives, if they are normal; [C].

    E[x | x < 0] for x ~ N(shift, scale^2), which is shift - scale phi(z) / Phi(-z) with z = shift / scale; where less than
    a thousandth of x is negative, -3 scale.

    Args:
        shift_C: the shift (``bias``) of every channel, [C].
        scale_C: the scale (``weight``), of either sign, [C].
    """
    scale_C = scale_C.abs()
    z_C = shift_C / scale_C.clamp(min=SMALLEST)
    log_share_C = torch.special.log_ndtr(-z_C)
    log_density_C = -0.5 * z_C.square() - 0.5 * math.log(2 * math.pi)
    expected_C = shift_C - scale_C * (log_density_C - log_share_C).exp()
    return torch.where(log_share_C > math.log(RARE), expected_C, -3 * scale_C)


def margins_of_batch(teacher_BCHW: Tensor) -> Tensor:
    """The mean of the negative responses of every channel in a batch; [C].

    Where at most a thousandth of them is negative, -3 standard deviations of the channel.
    """
    values_CN = teacher_BCHW.transpose(0, 1).flatten(1)
    negative_CN = values_CN < 0
    count_C = negative_CN.sum(1)
    mean_C = values_CN.clamp(max=0).sum(1) / count_C.clamp(min=1)
    return torch.where(count_C > RARE * values_CN.shape[1], mean_C, -3 * values_CN.std(1, correction=0))


class Margin(nn.Module):
    """The margin ReLU: max(t, m), with one margin m for every channel.

    The margins are taken at the first step, when the teacher has its weights, and kept with the state of the run.

    Args:
        channels: number of channels C.
        norm: the batch normalisation that gives the responses; None to measure the margins on the first batch.
    """

    values: Tensor
    known: Tensor

    def __init__(self, channels: int, norm: ModuleView | None) -> None:
        super().__init__()
        self.norm = norm
        self.register_buffer("values", torch.zeros(channels))
        self.register_buffer("known", torch.tensor(False))
        self._ready = False  # spares every step but the first the wait for the device

    def forward(self, teacher_BCHW: Tensor, processes: Processes = ALONE) -> Tensor:
        """The teacher's responses [B, C, H, W], with those below the margin raised to it.

        Args:
            teacher_BCHW: before its ReLU.
            processes: those that share the batch, of whose images the margins are measured.
        """
        if not self._ready and not self.known.is_meta:  # where shapes alone are tried, there is nothing to ask
            self._take(teacher_BCHW, processes)
        return torch.maximum(teacher_BCHW, self.values[:, None, None])

    @torch.no_grad()
    def _take(self, teacher_BCHW: Tensor, processes: Processes) -> None:
        if not self.known:
            if self.norm is None:
                self.values.copy_(margins_of_batch(processes.gathered(teacher_BCHW)))
            else:
                self.values.copy_(_of(self.norm, self.values))
            self.known.fill_(True)
        self._ready = True


def _of(norm: ModuleView, like_C: Tensor) -> Tensor:
    """The margins of a normalisation; without a shift and scale of its own, these are 0 and 1."""
    if norm.weight is None:
        return margins_of_norm(torch.zeros_like(like_C), torch.ones_like(like_C))
    return margins_of_norm(norm.bias.float(), norm.weight.float())
