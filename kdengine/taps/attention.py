"""Notices whether a network attends: by the functions that it calls, whatever its modules are named."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["AttentionWatch"]

_ATTENTION = frozenset({"scaled_dot_product_attention", "multi_head_attention_forward", "_native_multi_head_attention"})
_SOFTMAX = frozenset({"softmax", "_softmax"})


class AttentionWatch(TorchFunctionMode):
    """While active, notices attention between positions.

    Attributes:
        attends: whether attention was computed: by a function for it, or by a softmax over the last axis of matrices. Gates
            that weigh channels or branches take a softmax over another axis, or over a single row.
    """

    def __init__(self) -> None:
        super().__init__()
        self.attends = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in _ATTENTION or (name in _SOFTMAX and _over_matrices(args, kwargs)):
            self.attends = True
        return func(*args, **kwargs)


def _over_matrices(args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Whether a softmax runs over the last axis of [..., N, M], with N and M above 1."""
    scores = args[0] if args else kwargs.get("input")
    axis = args[1] if len(args) > 1 else kwargs.get("dim")
    if not isinstance(scores, Tensor) or scores.ndim < 3 or axis not in (-1, scores.ndim - 1):
        return False
    return min(scores.shape[-2:]) > 1
