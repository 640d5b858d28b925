"""Support for double backward: a method differentiates with respect to the images, then training differentiates again."""

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
    """Inside, functions without a second derivative in PyTorch, such as fused attention, are composed of ones that have it.

    Affects only the calling thread; torch's own switch for attention, ``sdpa_kernel``, affects the whole process.
    """
    with _Composed():
        yield


class _Composed(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _COMPOSED.get(func, func)(*args, **(kwargs or {}))


def _hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:  # torch's argument names
    """min(max(x + 3, 0), 6) / 6; never in place, because the gradient needs the input."""
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
    """Torch's unfused attention, [B, heads, L, D]; it takes an additive mask, not a boolean one."""
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(~attn_mask, float("-inf"))
    attended, _ = torch.ops.aten._scaled_dot_product_attention_math(query, key, value, attn_mask, dropout_p, is_causal, **more)
    assert isinstance(attended, Tensor)
    return attended


# The mode is inactive inside this function, where torch calls its attention; so this is a copy that calls ours.
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
