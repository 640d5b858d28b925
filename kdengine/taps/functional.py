"""Makes activations that a network calls as functions (``F.relu(x)``) observable like modules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["ACTIVATION_MODULES", "FunctionalActivations", "is_functional"]

# no sigmoid: networks use it as a gate inside a block, not as an activation
_LINEAR_UNITS = ("relu", "relu6", "leaky_relu", "prelu", "rrelu", "elu", "selu", "celu", "gelu", "silu")
_OTHERS = ("mish", "hardswish", "hardtanh", "softplus", "tanh")
_LABELS = {name + ending: f"{name}()" for name in _LINEAR_UNITS + _OTHERS for ending in ("", "_")}
"""Name of a function -> what taps call it; looked up as it is, which compilers can follow."""

_LINEAR_UNIT_MODULES = ("ReLU", "ReLU6", "LeakyReLU", "PReLU", "RReLU", "ELU", "SELU", "CELU", "GELU", "SiLU")
_OTHER_MODULES = ("Mish", "Hardswish", "Hardtanh", "Softplus", "Tanh")
_TIMM_MODULES = ("GELUTanh", "QuickGELU", "HardSwish", "Swish")
ACTIVATION_MODULES = frozenset(_LINEAR_UNIT_MODULES + _OTHER_MODULES + _TIMM_MODULES)


def is_functional(path: str) -> bool:
    """Whether a path names a function called inside a module (``layer1.0.relu()``)."""
    return path.endswith("()")


class FunctionalActivations(TorchFunctionMode):
    """While active, reports the name, input and output of every activation function called.

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
        label = _LABELS.get(getattr(func, "__name__", ""))
        if label is None:
            return func(*args, **kwargs)
        self.before(label, args[0] if args else kwargs["input"])
        output = func(*args, **kwargs)
        self.after(label, output)
        return output
