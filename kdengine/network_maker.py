"""Further networks for methods that ask for them: peers, assistants."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from functools import partial

from torch import nn

from kdengine.models import ModelSource
from kdengine.registry import Registry
from kdengine.seeds import seeded

__all__ = ["NetworkMaker"]


class NetworkMaker:
    """Makes networks with fresh weights; each call gives other weights, in an order that the seed decides.

    Args:
        kinds: what the words ``"student"`` and ``"teacher"`` stand for: a spec, or a module whose like is made.
        num_classes: K.
        input_size: (C, H, W).
        registry: finds the networks of plugins.
        seed: of the first network.
    """

    def __init__(
        self,
        kinds: Mapping[str, str | nn.Module],
        num_classes: int,
        input_size: tuple[int, int, int],
        registry: Registry,
        seed: int,
    ) -> None:
        self._kinds = dict(kinds)
        self._source = partial(ModelSource, num_classes=num_classes, input_size=input_size, registry=registry)
        self._seeds = itertools.count(seed)

    def __call__(self, spec: str) -> nn.Module:
        """A network of a spec, ``"student"`` or ``"teacher"``.

        Raises:
            ModelError: there is no such network, or it does not fit the data.
        """
        kind, seed = self._kinds.get(spec, spec), next(self._seeds)
        return _reborn(kind, seed) if isinstance(kind, nn.Module) else self._source(kind).create(seed)


def _reborn(module: nn.Module, seed: int) -> nn.Module:
    """A copy with fresh weights, as far as its parts know how to draw them."""
    twin: nn.Module = copy.deepcopy(module).train().requires_grad_(True)
    with seeded(seed):
        for part in twin.modules():
            reset = getattr(part, "reset_parameters", None)
            if callable(reset):
                reset()
    return twin
