"""Activations that a network calls as functions (``F.relu(x)``), made visible like modules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["ACTIVATION_MODULES", "FunctionalActivations", "is_functional"]

_NAMES = ("relu", "relu6", "leaky_relu", "prelu", "rrelu", "elu", "selu", "celu", "gelu", "silu", "mish", "hardswish")
_ACTIVATIONS = frozenset(name + ending for name in _NAMES for ending in ("", "_"))
ACTIVATION_MODULES = frozenset(
    "ReLU ReLU6 LeakyReLU PReLU RReLU ELU SELU CELU GELU GELUTanh QuickGELU SiLU Swish Mish Hardswish HardSwish".split()
)


def is_functional(path: str) -> bool:
    """Whether a path names a function called inside a module (``layer1.0.relu()``)."""
    return path.endswith("()")


class FunctionalActivations(TorchFunctionMode):
    """While active, reports each activation function with its name, input and output.

    Args:
        before: called with the function's name (``"relu()"``) and its input, before it runs.
        after: called with the function's name and its output.
    """

    def __init__(self, before: Callable[[str, Tensor], None], after: Callable[[str, Tensor], None]) -> None:
        super().__init__()
        self.before = before
        self.after = after

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name not in _ACTIVATIONS:
            return func(*args, **kwargs)
        label = f"{name.rstrip('_')}()"
        self.before(label, args[0] if args else kwargs["input"])
        output = func(*args, **kwargs)
        self.after(label, output)
        return output
