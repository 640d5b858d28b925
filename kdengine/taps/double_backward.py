"""Forwards that are differentiated twice: once by a method, with respect to the images, and once to train."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["twice_differentiable"]


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Inside, functions whose second derivative PyTorch lacks are made of others; fused attention has none either.

    Only for the thread that enters: torch's own choice of attention, ``sdpa_kernel``, would hold for the whole process.
    """
    with _Composed():
        yield


class _Composed(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _COMPOSED.get(func, func)(*args, **(kwargs or {}))


def _hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:  # torch's names of the arguments
    """min(max(x + 3, 0), 6) / 6; never in place, for the gradient needs what went in."""
    return F.relu6(input + 3) / 6


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **more: Any,
) -> Tensor:
    """Torch's attention of matrix products and a softmax, [B, heads, L, D]; it takes a mask of what to add, not of booleans."""
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(~attn_mask, float("-inf"))
    attended, _ = torch.ops.aten._scaled_dot_product_attention_math(query, key, value, attn_mask, dropout_p, is_causal, **more)
    assert isinstance(attended, Tensor)
    return attended


# Torch calls its attention inside this function, where nothing is replaced any more: a copy of it that calls ours.
_several_heads = FunctionType(
    F.multi_head_attention_forward.__code__,
    {**vars(F), "scaled_dot_product_attention": _attention, "has_torch_function": lambda tensors: False},
    argdefs=F.multi_head_attention_forward.__defaults__,
)

_COMPOSED: dict[Any, Callable[..., Any]] = {
    F.hardsigmoid: _hardsigmoid,
    torch._C._nn.hardsigmoid: _hardsigmoid,
    torch._C._nn.hardsigmoid_: _hardsigmoid,
    F.scaled_dot_product_attention: _attention,
    F.multi_head_attention_forward: _several_heads,
}
