"""The modes of a network: for a forward that leaves nothing behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

__all__ = ["evaluating"]


@contextmanager
def evaluating(network: nn.Module) -> Iterator[nn.Module]:
    """The network in ``eval()`` and without gradients inside the context; train or eval mode is restored on exit."""
    was_training = network.training
    try:
        with torch.no_grad():
            yield network.eval()
    finally:
        network.train(was_training)
