"""Helpers for the values that pass through a network: the first tensor, the logits, the layout."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

import torch
from torch import Tensor

__all__ = ["AS_IS", "Layout", "as_grid", "first_tensor", "nth_tensor", "tensors_in", "times_written"]

_MOST_PREFIX_TOKENS = 16
_MAIN = ("logits", "out")


def times_written(tensor: Tensor) -> int:
    """How often a tensor has been written to in place; 0 for inference tensors, for which PyTorch does not count."""
    return 0 if tensor.is_inference() else tensor._version


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor inside tuples, lists, mappings and dataclasses, depth first."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from tensors_in(getattr(value, field.name))


def first_tensor(value: Any) -> Tensor | None:
    """The tensor itself, its ``logits`` or ``out`` entry, or the first tensor inside; None if there is none.

    Networks with auxiliary heads return the main output first in a tuple; records that also hold a loss call it ``logits``;
    torchvision's segmentation networks call it ``out``.
    """
    if isinstance(value, Mapping):
        for name in _MAIN:
            if isinstance(value.get(name), Tensor):
                main: Tensor = value[name]
                return main
    if dataclasses.is_dataclass(value) and isinstance(getattr(value, "logits", None), Tensor):
        return value.logits  # type: ignore[union-attr,no-any-return]
    return next(tensors_in(value), None)


def nth_tensor(value: Any, item: int | None) -> Tensor | None:
    """The tensor with this index inside a value, or :func:`first_tensor` without an index; None if there is none."""
    return first_tensor(value) if item is None else next(islice(tensors_in(value), item, None), None)


def as_grid(count: int, aspect: float = 1.0) -> tuple[int, int] | None:
    """Rows and columns of a grid of ``count`` patches with the image's aspect ratio; None if no such grid exists.

    >>> as_grid(196), as_grid(197), as_grid(98, aspect=2.0)
    ((14, 14), None, (14, 7))
    """
    rows = round(math.sqrt(max(count, 0) * aspect))
    if rows == 0 or count % rows:
        return None
    columns = count // rows
    return (rows, columns) if abs(rows - columns * aspect) < 1 else None


@dataclass(frozen=True)
class Layout:
    """How a captured tensor becomes the one that a distiller reads.

    Attributes:
        kind: ``"as_is"``; ``"nhwc"``: [B, H, W, C] -> [B, C, H, W]; ``"tokens"``: [B, prefix + H*W, C] ->
            [B, C, H, W]; ``"vector"``: any of these, pooled -> [B, C].
        prefix: number of leading class and register tokens.
        grid: rows and columns of the patches.
        order: for patches that are not in row-major order, the index of the patch at each grid position.
        channels_last: whether the last dimension of the tensor that a ``"vector"`` is pooled from is its channels.
    """

    kind: str = "as_is"
    prefix: int = 0
    grid: tuple[int, int] = (0, 0)
    channels_last: bool = False
    order: tuple[int, ...] = ()

    def apply(self, tensor: Tensor) -> Tensor:
        """The tensor as a map [B, C, H, W] or, for ``"vector"``, as [B, C]."""
        if self.kind == "nhwc":
            return tensor.permute(0, 3, 1, 2)
        if self.kind == "tokens":
            patches = tensor[:, self.prefix :].transpose(1, 2)
            if self.order:
                patches = patches[..., _numbers(self.order, patches.device)]
            return patches.reshape(*patches.shape[:2], *self.grid)
        if self.kind == "vector" and tensor.ndim > 2:
            return tensor.flatten(1, -2).mean(1) if self.channels_last else tensor.flatten(2).mean(2)
        return tensor

    @classmethod
    def of_map(
        cls, tensor: Tensor, channels: int | None = None, prefix: int | None = None, aspect: float = 1.0
    ) -> Layout | None:
        """The layout that turns a tensor into a map; None if it does not hold one.

        Args:
            tensor: [B, C, H, W], [B, H, W, C] or [B, N, C].
            channels: C if known, to distinguish [B, H, W, C] from [B, C, H, W]; else the aspect ratio decides.
            prefix: number of tokens before the patches if known; 0 is tried too, for blocks that run before these are added.
            aspect: rows / columns of the image.
        """
        if tensor.ndim == 4:
            return cls._of_image(tensor, channels, aspect)
        if tensor.ndim != 3:
            return None
        for count in range(_MOST_PREFIX_TOKENS + 1) if prefix is None else (prefix, 0):
            grid = as_grid(tensor.shape[1] - count, aspect)
            if grid is not None:
                return cls("tokens", count, grid)
        return None

    @classmethod
    def of_places(cls, positions: Tensor, moved: Tensor) -> Layout | None:
        """The layout that rearranges values as in an example; None if there is none.

        Args:
            positions: a tensor of the captured shape whose values are all different.
            moved: the map [B, C, H, W] that the layout must make of it.
        """
        candidates = [cls(), cls("nhwc")] if positions.ndim == 4 else []
        if positions.ndim == 3 and moved.ndim == 4 and torch.isin(moved[0, 0], positions[0, :, 0]).all():
            candidates = [cls._of_patches(positions[0, :, 0], moved[0, 0])]
        return next((layout for layout in candidates if torch.equal(layout.apply(positions), moved)), None)

    @classmethod
    def _of_patches(cls, tokens: Tensor, patches: Tensor) -> Layout:
        """The layout that takes patches [H, W] from tokens [N], whose values are sorted."""
        numbers = torch.searchsorted(tokens.contiguous(), patches.contiguous()).flatten()
        prefix = int(numbers.min())
        order = tuple((numbers - prefix).tolist())
        row_major = order == tuple(range(len(tokens) - prefix))
        return cls("tokens", prefix, (patches.shape[0], patches.shape[1]), order=() if row_major else order)

    @classmethod
    def _of_image(cls, tensor: Tensor, channels: int | None, aspect: float) -> Layout | None:
        _, first, second, third = tensor.shape
        if channels is not None:
            return cls("nhwc") if third == channels != first else cls()
        if _has_aspect(second, third, aspect):
            return cls()
        return cls("nhwc") if _has_aspect(first, second, aspect) else None


AS_IS = Layout()


@lru_cache(maxsize=64)
def _numbers(order: tuple[int, ...], device: torch.device) -> Tensor:
    """The order as a tensor, created once per device; not an inference tensor, which a later backward would refuse."""
    with torch.inference_mode(False):
        return torch.tensor(order, device=device)


def _has_aspect(rows: int, columns: int, aspect: float) -> bool:
    """Whether a map has the image's aspect ratio, up to rounding."""
    return abs(rows - columns * aspect) < max(1.0, aspect)
