"""Folding: a frozen network without its batch normalisation, which goes into the weights of the convolutions before it."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, Self, cast

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from kdengine.errors import TapError
from kdengine.taps import Recorder, Trace
from kdengine.taps.anatomy import TapPoint
from kdengine.taps.tensors import times_written
from kdengine.training.casting import casting
from kdengine.training.compiling import Forwards
from kdengine.training.fusing import fuse, fusible, unfuse

__all__ = ["Folding"]

SAMPLE = 2
"""Images on which the folded network is compared to the original, in float32."""
CLOSE = 1e-3
"""Largest difference that counts as rounding in a deep network, as a share of the largest value; that of a fault is larger."""


_Pairs = Sequence[tuple[str, str]]


class Folding:
    """A copy of a network with batch normalisation folded into convolutions, and what it shows truthfully.

    In ``eval()``, convolution and normalisation are one affine map, which a single convolution computes. What the convolution
    gave by itself does not exist any more: points are shown only if they agree with the original in float32.

    Args:
        original: the network; never modified.
        network: the folded copy, in float32.
        pairs: paths of convolutions and of the normalisations that went into them.
        fused: whether its convolutions also do what follows them.
        images: what to compare them on, [B, C, H, W].
        dtype: what autocast would make of the convolutions' weights in every forward; None to leave them in float32.

    Attributes:
        network: the folded copy, with weights of that type.
    """

    def __init__(
        self,
        original: nn.Module,
        network: nn.Module,
        pairs: _Pairs,
        fused: bool,
        images: Tensor,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.network = network
        self.forwards = Forwards(network, None)
        self._original = original
        self._pairs = pairs
        self._fused = fused
        self._images = images
        self._is_exact = dtype is None
        self._shown: dict[TapPoint, bool] = {}
        if dtype is not None:
            for convolution, _ in pairs:
                network.get_submodule(convolution).to(dtype)

    @classmethod
    def of(cls, network: nn.Module, images: Tensor, dtype: torch.dtype | None = None) -> Self | None:
        """Fold a network in ``eval()``; None if there is nothing to fold, or the result would be another network.

        Args:
            network: the network.
            images: of a batch, [B, C, H, W].
            dtype: of the forwards, if they run in autocast.
        """
        if images.is_meta:  # which has no values to compare
            return None
        sample = images[:SAMPLE].detach().clone()
        try:
            copied = copy.deepcopy(network)
            pairs = _pairs(copied, sample)
        except Exception:  # a network may hold what cannot be copied, or take whole batches only
            return None
        folded = _folded(copied, pairs)
        if not pairs or not _agree(folded, network, sample, {}, "logits"):
            return None
        fused = fusible(images, dtype) and _fused(folded, pairs, network, sample)
        return cls(network, folded, pairs, fused, sample, dtype)

    def shown(self, points: Mapping[str, TapPoint]) -> dict[str, TapPoint]:
        """The points at which the folded network shows what the original does; compared when one is first asked for."""
        new = [point for point in points.values() if point not in self._shown]
        if new:
            exact = self.network if self._is_exact else self._exact()
            for point in new:
                self._shown[point] = _agree(exact, self._original, self._images, {"tap": point}, "tap")
        return {name: point for name, point in points.items() if self._shown[point]}

    def _exact(self) -> nn.Module:
        """The folded copy anew, in float32."""
        network = _folded(copy.deepcopy(self._original), self._pairs)
        if self._fused:
            fuse(network, _convolutions(self._pairs))
        return network


def _folded(network: nn.Module, pairs: _Pairs) -> nn.Module:
    """The network itself, with each convolution having taken in its normalisation."""
    for convolution, norm in pairs:
        before, after = (cast(Any, network.get_submodule(path)) for path in (convolution, norm))
        _put(network, convolution, fuse_conv_bn_eval(before, after))
        _put(network, norm, nn.Sequential(OrderedDict(after.named_children())))  # what timm runs after it, under its names
    return network


def _fused(network: nn.Module, pairs: _Pairs, original: nn.Module, images: Tensor) -> bool:
    """Fuse a folded network, and undo it unless it still agrees with the original; whether it is fused."""
    replaced = fuse(network, _convolutions(pairs))
    try:
        agrees = _agree(network, original, images, {}, "logits")
    except Exception:  # a sum of two shapes, or a forward that does more than could be followed
        agrees = False
    if not agrees:
        unfuse(replaced)
    return agrees and bool(replaced)


def _convolutions(pairs: _Pairs) -> list[str]:
    return [convolution for convolution, _ in pairs]


def _agree(network: nn.Module, original: nn.Module, images: Tensor, points: Mapping[str, TapPoint], name: str) -> bool:
    """Whether two networks show the same in float32."""
    try:
        mine, theirs = (_seen(each, images, points)[name] for each in (network, original))
    except TapError:  # overwritten, because a convolution now gives what its normalisation gave
        return False
    return bool((mine - theirs).abs().max() <= CLOSE * theirs.abs().max())


def _seen(network: nn.Module, images: Tensor, points: Mapping[str, TapPoint]) -> Trace:
    """What a network shows in float32."""
    with torch.no_grad(), torch.autocast(casting(images), enabled=False), Recorder(network, points) as recorder:
        return recorder(images)


def _pairs(network: nn.Module, images: Tensor) -> list[tuple[str, str]]:
    """Paths of convolutions and of the normalisations that take in what they give, each of which runs once."""
    calls: dict[str, int] = {}
    given: dict[int, tuple[str, Tensor, int]] = {}  # holds the tensors, so that no other gets the identity of one
    pairs: list[tuple[str, str]] = []

    def convolved(path: str, _: nn.Module, inputs: Any, output: Tensor) -> None:
        calls[path] = calls.get(path, 0) + 1
        given[id(output)] = (path, output, times_written(output))

    def normalised(path: str, _: nn.Module, inputs: tuple[Tensor]) -> None:
        calls[path] = calls.get(path, 0) + 1
        source, tensor, written = given.get(id(inputs[0]), ("", inputs[0], -1))
        if source and times_written(tensor) == written:
            pairs.append((source, path))

    with ExitStack() as stack:
        for path, module in network.named_modules():
            if type(module) is nn.Conv2d and path:
                stack.callback(module.register_forward_hook(partial(convolved, path)).remove)
            elif _folds(module) and path:
                stack.callback(module.register_forward_pre_hook(partial(normalised, path)).remove)
        _seen(network, images, {})
    once = [pair for pair in pairs if all(calls[path] == 1 for path in pair)]
    sources = [source for source, _ in once]
    return [pair for pair in once if sources.count(pair[0]) == 1]


def _folds(module: nn.Module) -> bool:
    """Whether a module is a normalisation of a fixed scale and shift, whose forward is known."""
    known = type(module) in (nn.BatchNorm2d, BatchNormAct2d)
    return known and not module.training and getattr(module, "running_var", None) is not None


def _put(network: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(network.get_submodule(parent), name, module)
