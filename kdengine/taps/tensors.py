"""Small questions about what passes through a network: its first tensor, its logits, its layout."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

__all__ = ["AS_IS", "Layout", "as_grid", "first_tensor", "tensors_in"]

_MOST_PREFIX_TOKENS = 16


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
    """The tensor itself, or ``value["logits"]``, or the first tensor found inside; None when there is none.

    Auxiliary heads put the main output first in a tuple, and name it ``logits`` in a record that holds a loss too.
    """
    if isinstance(value, Mapping) and isinstance(value.get("logits"), Tensor):
        logits: Tensor = value["logits"]
        return logits
    if dataclasses.is_dataclass(value) and isinstance(getattr(value, "logits", None), Tensor):
        return value.logits  # type: ignore[union-attr,no-any-return]
    return next(tensors_in(value), None)


def as_grid(places: int, aspect: float = 1.0) -> tuple[int, int] | None:
    """Rows and columns of so many places in the proportions of the image; None where they fill no such grid.

    >>> as_grid(196), as_grid(197), as_grid(98, aspect=2.0)
    ((14, 14), None, (14, 7))
    """
    rows = round(math.sqrt(max(places, 0) * aspect))
    if rows == 0 or places % rows:
        return None
    columns = places // rows
    return (rows, columns) if abs(rows - columns * aspect) < 1 else None


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
            return patches.reshape(*patches.shape[:2], *self.grid)
        if self.kind == "vector" and tensor.ndim > 2:
            return tensor.flatten(1, -2).mean(1) if self.channels_last else tensor.flatten(2).mean(2)
        return tensor

    @classmethod
    def of_map(
        cls, tensor: Tensor, channels: int | None = None, prefix: int | None = None, aspect: float = 1.0
    ) -> Layout | None:
        """The layout that makes a map of a tensor, or None if it holds no map.

        Args:
            tensor: [B, C, H, W], [B, H, W, C] or [B, N, C].
            channels: C where known; tells [B, H, W, C] from [B, C, H, W], which the proportions tell otherwise.
            prefix: tokens before the patches where known; a block may also come before they are put there.
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
    def _of_image(cls, tensor: Tensor, channels: int | None, aspect: float) -> Layout | None:
        _, first, second, third = tensor.shape
        if channels is not None:
            return cls("nhwc") if third == channels != first else cls()
        if _fits(second, third, aspect):
            return cls()
        return cls("nhwc") if _fits(first, second, aspect) else None


AS_IS = Layout()


def _fits(rows: int, columns: int, aspect: float) -> bool:
    """Whether a map has the proportions of the image, up to rounding."""
    return abs(rows - columns * aspect) < max(1.0, aspect)
