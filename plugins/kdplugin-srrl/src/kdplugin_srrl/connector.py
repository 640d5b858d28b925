"""The connector, which brings the student's features to the width and the range of the teacher's."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from kdengine import Adapter, Processes, pool_to_vectors

__all__ = ["Connector", "as_maps"]


ALONE = Processes()


def as_maps(features: Tensor) -> Tensor:
    """Vectors [B, D] as [B, D, 1, 1], tokens [B, N, D] as [B, D, N, 1]; maps [B, D, H, W] as they are."""
    if features.ndim == 4:
        return features
    return features[:, :, None, None] if features.ndim == 2 else features.transpose(1, 2).unsqueeze(-1)


class Connector(nn.Module):
    """1x1 convolution, batch normalisation and, where the teacher's features are never negative, a ReLU.

    Args:
        inputs: width C of the student's features.
        outputs: width D of the teacher's.
        relu: whether it ends in a ReLU; ``auto`` decides by the teacher's features in the first batch.
    """

    rectified: Tensor
    known: Tensor

    def __init__(self, inputs: int, outputs: int, relu: Literal["auto", "always", "never"] = "auto") -> None:
        super().__init__()
        self.change = Adapter(inputs, outputs)
        self.register_buffer("rectified", torch.tensor(relu == "always"))
        self.register_buffer("known", torch.tensor(relu != "auto"))
        self._ready = False  # spares every step but the first the wait for the device

    def forward(self, student: Tensor, teacher: Tensor, processes: Processes = ALONE) -> Tensor:
        """The student's features in the teacher's width, averaged over positions after the ReLU; [B, D].

        Args:
            student: vectors [B, C], tokens [B, N, C] or maps [B, C, H, W].
            teacher: the teacher's features, of any of these forms.
            processes: those that share the batch, of whose images the first decide.
        """
        if not self._ready and not self.known.is_meta:  # where shapes alone are tried, there is nothing to look at
            self._look(teacher, processes)
        mixed_BDHW = self.change(as_maps(student))
        return pool_to_vectors(torch.where(self.rectified, mixed_BDHW.relu(), mixed_BDHW))

    @torch.no_grad()
    def _look(self, teacher: Tensor, processes: Processes) -> None:
        if not self.known:
            self.rectified.copy_(processes.stacked(teacher.min()).min() >= 0)
            self.known.fill_(True)
        self._ready = True
