"""The bytes of a tensor, to hash or to write them."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["contents"]


def contents(tensor: Tensor) -> memoryview:
    """The values of a tensor of any shape and type, as they lie in the memory of the host, in the order of its elements."""
    data: memoryview = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
    return data
