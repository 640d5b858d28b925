"""Small questions about what passes through a network: its first tensor, its logits, its layout."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

__all__ = ["Layout", "first_tensor", "tensors_in"]


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
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from tensors_in(getattr(value, field.name))


def first_tensor(value: Any) -> Tensor | None:
    """The tensor itself, or ``value["logits"]``, or the first tensor found inside; None when there is none.

    Auxiliary heads put the main output first in a tuple, and name it ``logits`` in a record that holds a loss too.
    """
    if isinstance(value, Mapping) and isinstance(value.get("logits"), Tensor):
        logits: Tensor = value["logits"]
        return logits
    if dataclasses.is_dataclass(value) and isinstance(getattr(value, "logits", None), Tensor):
        return value.logits  # type: ignore[union-attr,no-any-return]
    return next(tensors_in(value), None)


@dataclass(frozen=True)
class Layout:
    """How a captured tensor becomes what a distiller is handed.

    Attributes:
        kind: ``"as_is"``; ``"nhwc"``: [B, H, W, C] -> [B, C, H, W]; ``"tokens"``: [B, prefix + H*W, C] ->
            [B, C, H, W]; ``"vector"``: any of these, pooled -> [B, C].
        prefix: leading tokens that are no image patch (class and register tokens).
        grid: rows and columns of the patches.
        channels_last: whether a ``"vector"`` is pooled from a tensor whose last dimension is its channels.
    """

    kind: str = "as_is"
    prefix: int = 0
    grid: tuple[int, int] = (0, 0)
    channels_last: bool = False

    def apply(self, tensor: Tensor) -> Tensor:
        """The tensor as a map [B, C, H, W] or, for ``"vector"``, as [B, C]."""
        if self.kind == "nhwc":
            return tensor.permute(0, 3, 1, 2)
        if self.kind == "tokens":
            patches = tensor[:, self.prefix :].transpose(1, 2)
            return patches.unflatten(2, self.grid)
        if self.kind == "vector" and tensor.ndim > 2:
            return tensor.flatten(1, -2).mean(1) if self.channels_last else tensor.flatten(2).mean(2)
        return tensor

    @classmethod
    def of_map(cls, tensor: Tensor, channels: int | None = None, prefix: int | None = None) -> Layout | None:
        """The layout that makes a map of a tensor, or None if it holds no map.

        Args:
            tensor: [B, C, H, W], [B, H, W, C] or [B, N, C].
            channels: C where known; tells [B, H, W, C] from [B, C, H, W].
            prefix: tokens before the patches where known; else what is left over of the largest square.
        """
        shape = tensor.shape
        if tensor.ndim == 4:
            return cls("nhwc") if channels in shape[3:] and shape[1] != channels else cls()
        if tensor.ndim != 3:
            return None
        side = math.isqrt(shape[1] - (prefix or 0))
        left_over = shape[1] - side * side
        if prefix is not None and left_over != prefix:
            return None
        return cls("tokens", left_over, (side, side))
