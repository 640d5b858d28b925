"""Further networks for methods that ask for them: peers, assistants."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from torch import nn

from kdengine.errors import ModelError
from kdengine.networks.inputs import ImageSpec, Preprocess
from kdengine.networks.models import ModelSource, check_name
from kdengine.networks.preprocess import preprocess_for
from kdengine.plugins.registry import Registry
from kdengine.seeds import seeded

__all__ = ["NetworkFactory"]


class NetworkFactory:
    """Makes networks with fresh weights; each call gives other weights, in an order that the seed decides.

    Args:
        kinds: what the words ``"student"``, ``"teacher"``, ``"teacher 2"`` and so on stand for: a spec, or a module whose like
            is made.
        options: what the task tells every factory.
        images: what the data makes.
        registry: finds the networks of plugins.
        seed: of the first network.
        preprocess: what is done to the images before networks of the words receive them; others get what their weights
            were made for, and without weights what the data makes.
    """

    def __init__(
        self,
        kinds: Mapping[str, str | nn.Module],
        options: Mapping[str, Any],
        images: ImageSpec,
        registry: Registry,
        seed: int,
        preprocess: Mapping[str, Preprocess] | None = None,
    ) -> None:
        self._kinds = dict(kinds)
        self._images = images
        self._source = partial(ModelSource, options=options, registry=registry)
        self._preprocess_of = dict(preprocess or {})
        self._registry = registry
        self._seeds = itertools.count(seed)

    def __call__(self, spec: str) -> nn.Module:
        """A network of a spec, ``"student"`` or ``"teacher"``; it takes images as the data makes them.

        Raises:
            ModelError: there is no such network, or it does not fit the data.
        """
        if spec == "teacher" and spec not in self._kinds:
            raise ModelError(
                "A method asks for a network like the teacher, but this run has no teacher. Name one with --teacher, or give "
                "the method another network."
            )
        kind, seed = self._kinds.get(spec, spec), next(self._seeds)
        if isinstance(kind, nn.Module):
            return self._preprocess(spec, kind).before(_reborn(kind, seed))
        check_name(kind, self._registry)
        preprocess = self._preprocess(spec, kind)
        return preprocess.before(self._source(kind, input_size=preprocess.wanted.size).create(seed))

    def _preprocess(self, word: str, kind: str | nn.Module) -> Preprocess:
        return self._preprocess_of[word] if word in self._preprocess_of else preprocess_for(kind, self._images)


def _reborn(module: nn.Module, seed: int) -> nn.Module:
    """A copy with fresh weights, as far as its parts know how to draw them."""
    twin: nn.Module = copy.deepcopy(module).train().requires_grad_(True)
    with seeded(seed):
        for part in twin.modules():
            reset = getattr(part, "reset_parameters", None)
            if callable(reset):
                with suppress(AttributeError):  # timm's norms without a bias inherit a reset of both, the weight first
                    reset()
    return twin
