"""The student as one self-contained function of plain images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdengine.errors import ModelError
from kdengine.networks.inputs import Preprocess
from kdengine.taps.tensors import first_tensor

__all__ = ["Exportable"]


class Exportable(nn.Module):
    """Plain images -> logits: normalisation, resize and network in one module whose operations every format has.

    The resize is linear, so it is two multiplications by fixed matrices, which give what interpolation gives; antialiased
    interpolation itself is missing from most runtimes.

    Args:
        network: the student.
        preprocess: what it receives in its run.
        raw: leave out normalisation and resize; the caller then gives images as the network receives them.

    Attributes:
        input_size: shape of one image, (C, H, W).
    """

    network: nn.Module
    mean: Tensor | None
    std: Tensor | None
    rows: Tensor | None
    columns: Tensor | None

    def __init__(self, network: nn.Module, preprocess: Preprocess, raw: bool = False) -> None:
        super().__init__()
        given, wanted = preprocess.given, preprocess.wanted
        self.input_size = wanted.size if raw else given.size
        self.network = network
        self.raw = raw
        mean, std = wanted.mean or given.mean, wanted.std or given.std
        if not raw and (mean is None or std is None):
            raise ModelError(
                "The run does not record how its images were normalised, so that cannot be part of the file. Add --raw: the "
                "file then takes images as the network receives them."
            )
        self.register_buffer("mean", None if raw else _per_channel(mean))
        self.register_buffer("std", None if raw else _per_channel(std))
        (_, height, width), (_, new_height, new_width) = given.size, wanted.size
        resizes = preprocess.resizes and not raw
        self.register_buffer("rows", _resizing(height, new_height) if resizes else None)
        self.register_buffer("columns", _resizing(width, new_width).T.contiguous() if resizes else None)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W], float32 from 0 to 1 (normalised, if raw) -> logits [B, K]."""
        if self.mean is not None and self.std is not None:
            images = (images - self.mean) / self.std
        if self.rows is not None and self.columns is not None:
            images = self.rows @ images @ self.columns
        logits = first_tensor(self.network(images))
        assert logits is not None
        return logits


def _per_channel(values: Sequence[float] | None) -> Tensor:
    return torch.tensor(values or (), dtype=torch.float32).view(1, -1, 1, 1)


def _resizing(size: int, wanted: int) -> Tensor:
    """The matrix [wanted, size] that resizes along one dimension, as :class:`Preprocess` does."""
    identity = torch.eye(size)[None, None]
    resized: Tensor = F.interpolate(identity, size=(wanted, size), mode="bicubic", antialias=True)[0, 0]
    return resized
