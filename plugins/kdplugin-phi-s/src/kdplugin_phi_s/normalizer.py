"""Normalises the features of one teacher by statistics of the first batches."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdengine import Processes
from kdplugin_phi_s.rotation import evening

__all__ = ["Normalizer"]

ALONE = Processes()
ROUNDING = 1e-12
"""Share of the mean square that a variance must exceed to be more than the rounding of float32."""

# N: samples, which are images, positions of maps or tokens; D: channels.


class Normalizer(nn.Module):
    """Subtracts a mean [D] and applies a matrix [D, D], both estimated from the first batches and fixed from then on.

    Args:
        width: D.
        batches: how many batches to estimate them from; more, as long as these hold fewer than two samples that differ.
        kind: ``phi-s``, ``global``, ``channel`` or ``none``; see the options of the method.
    """

    batches_seen: Tensor
    samples: Tensor
    mean: Tensor
    scatter: Tensor
    matrix: Tensor
    settled: Tensor

    def __init__(self, width: int, batches: int, kind: str = "phi-s") -> None:
        super().__init__()
        self.batches, self.kind = batches, kind
        self._is_settled = False
        self.register_buffer("batches_seen", torch.zeros((), dtype=torch.long))
        self.register_buffer("samples", torch.zeros((), dtype=torch.long))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scatter", torch.zeros(width, width))
        self.register_buffer("matrix", torch.eye(width))
        self.register_buffer("settled", torch.zeros((), dtype=torch.bool))

    def forward(self, x_ND: Tensor, processes: Processes = ALONE) -> Tensor | None:
        """The samples, normalised, [N, D]; None as long as the statistics are being estimated.

        Args:
            x_ND: the samples of this process.
            processes: those that share the batch, of whose samples the statistics are.
        """
        if x_ND.is_meta:  # shapes alone, which say nothing of statistics
            return (x_ND - self.mean) @ self.matrix.T
        if not self._is_settled:
            if not bool(self.settled):
                self._observe(x_ND.detach(), processes)
            self._is_settled = bool(self.settled)  # asked on the device no more once it holds
        if not self._is_settled:
            return None
        return (x_ND - self.mean) @ self.matrix.T

    @property
    def covariance(self) -> Tensor:
        """The covariance of all samples so far, [D, D], float64."""
        return self.scatter.double() / self.samples

    @property
    def _varies(self) -> bool:
        """Whether the samples differ by more than rounding."""
        return float(self.scatter.trace()) > ROUNDING * float(self.mean.square().sum() * self.samples)

    @torch.no_grad()
    def _observe(self, x_ND: Tensor, processes: Processes) -> None:
        """Take in one batch, the share of each process after the other, and settle after the last."""
        mean_D = x_ND.mean(0)
        away_ND = x_ND - mean_D
        shares = (self.samples.new_tensor(len(x_ND)), mean_D, away_ND.T @ away_ND)
        for count, mean, scatter in zip(*map(processes.stacked, shares), strict=True):
            self._merge(int(count), mean, scatter)
        self.batches_seen += 1
        if int(self.batches_seen) >= self.batches and self._varies:
            self.matrix.copy_(_matrix(self.covariance.cpu(), self.kind))
            self.settled.fill_(True)
            if self.kind == "none":
                self.mean.zero_()

    def _merge(self, count: int, mean_D: Tensor, scatter_DD: Tensor) -> None:
        """Take in the samples of one share by what they have in sum (Chan's update of mean and scatter)."""
        before, shift_D = int(self.samples), mean_D - self.mean
        self.scatter += scatter_DD + torch.outer(shift_D, shift_D) * (before * count / (before + count))
        self.mean += shift_D * (count / (before + count))
        self.samples += count


def _matrix(covariance_DD: Tensor, kind: str) -> Tensor:
    """What centred samples are multiplied by, [D, D], float64."""
    width, variances_D = len(covariance_DD), covariance_DD.diagonal()
    if kind == "none":
        return torch.eye(width, dtype=torch.float64)
    if kind == "channel":
        spread_D = variances_D.sqrt()
        return torch.diag(torch.where(spread_D > 0, 1 / spread_D, 0.0))
    scale = variances_D.mean().rsqrt()  # the mean of the variances is that of the eigenvalues
    if kind == "global":
        return scale * torch.eye(width, dtype=torch.float64)
    eigenvalues_D, axes_DD = torch.linalg.eigh(covariance_DD)
    largest_D = axes_DD.abs().argmax(0)
    axes_DD = axes_DD * axes_DD.gather(0, largest_D[None]).sign()  # an axis has two directions: the same one everywhere
    turn_DD = evening(eigenvalues_D.clamp(min=0).tolist())
    return torch.mul(turn_DD @ axes_DD.T, scale)
