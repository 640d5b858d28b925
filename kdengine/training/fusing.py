"""Fusing: a convolution, the sum with the shortcut and the activation after it, in one pass over the map instead of three."""

from __future__ import annotations

import inspect
import operator
import threading
from collections.abc import Callable, Sequence
from types import MethodType
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

__all__ = ["fuse", "fusible", "unfuse"]

_Activation = tuple[str, list[float]]
"""What oneDNN can do to the output of a convolution before it is written: its name there, and its constants."""

PASSED = (nn.Identity, nn.Dropout, nn.Dropout2d)
"""What a map passes through unchanged in ``eval()``."""
ACTIVATIONS: dict[type[nn.Module], Callable[[Any], _Activation]] = {
    nn.ReLU: lambda _: ("relu", []),
    nn.ReLU6: lambda _: ("hardtanh", [0.0, 6.0]),
    nn.LeakyReLU: lambda module: ("leaky_relu", [module.negative_slope]),
    nn.SiLU: lambda _: ("swish", []),
    nn.Hardswish: lambda _: ("hardswish", []),
}
NONE: _Activation = ("none", [])
ADDITIONS = (operator.add, operator.iadd, torch.add)
RECTIFIERS = (F.relu, torch.relu)
TRACING = threading.Lock()
"""Held while fx follows a forward, because it replaces the call of all modules meanwhile."""


def fusible(images: Tensor, dtype: torch.dtype | None) -> bool:
    """Whether this machine has kernels that do several things at once.

    Args:
        images: of a batch, on the device of the forwards.
        dtype: of the forwards, if they run in autocast.
    """
    onednn: Any = torch.ops.mkldnn
    if images.device.type != "cpu" or not hasattr(onednn, "_convolution_pointwise"):  # torch may be built without it
        return False
    return dtype is None or (dtype is torch.bfloat16 and bool(onednn._is_mkldnn_bf16_supported()))


def fuse(network: nn.Module, convolutions: Sequence[str]) -> list[nn.Module]:
    """Replace the forwards of modules with convolutions, which then do what follows them too; of use without gradients only.

    Every module stays where it is, and taps show what they showed: the modules that a kernel stands for run too, one by one,
    if one of them has a hook.

    Args:
        network: a network in ``eval()``; modified in place.
        convolutions: paths of convolutions that run once.

    Returns:
        The modules whose forwards were replaced.
    """
    names: dict[str, set[str]] = {}
    for path in convolutions:
        parent, _, name = path.rpartition(".")
        names.setdefault(parent, set()).add(name)
    parents = {path: network.get_submodule(path) for path in names}
    return [module for path, module in parents.items() if _fuse(module, names[path])]


def unfuse(modules: Sequence[nn.Module]) -> None:
    """Give modules their own forwards back.

    Args:
        modules: what ``fuse`` returned.
    """
    for module in modules:
        del module.__dict__["forward"]


class _OneModule(fx.Tracer):
    """Follows the forward of a module, and of none inside it, in autocast."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module inside is left as it is: each is."""
        return True

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Note the call of a module inside; the calls of other threads, which fx diverts too, take their course.

        Raises:
            RuntimeError: the forward has left autocast for it, which a graph does not show.
        """
        if not any(isinstance(value, fx.Proxy) for value in tree_leaves((args, kwargs))):
            return forward(*args, **kwargs)
        if not torch.is_autocast_enabled("cpu"):
            raise RuntimeError("A forward that chooses its precision is left as it is.")
        return super().call_module(m, forward, args, kwargs)


def _fuse(module: nn.Module, names: set[str]) -> bool:
    """Replace the forward of a module in which convolutions have these names; whether there was anything to fuse."""
    if len(inspect.signature(module.forward).parameters) > 1:  # what is not passed is followed as if it were
        return False
    try:
        with TRACING, torch.autocast("cpu", torch.bfloat16):
            graph = _OneModule().trace(module)
    except Exception:  # a forward may depend on its input in any way
        return False
    plain = {name for name in names if _is_plain(cast(nn.Conv2d, module.get_submodule(name)))}
    convolved = [node for node in graph.nodes if node.op == "call_module" and node.target in plain]
    for node in convolved:  # one by one, because a chain may add the result of another
        _Chain(module, node).replace()
    if convolved:
        module.forward = MethodType(type(fx.GraphModule(module, graph)).forward, module)
    return bool(convolved)


def _is_plain(convolution: nn.Conv2d) -> bool:
    """Whether it is padded by a number of zeros, as kernels pad."""
    return convolution.padding_mode == "zeros" and not isinstance(convolution.padding, str)


class _Chain:
    """A convolution, and what is done to its output as long as nothing else reads it.

    Args:
        owner: the module whose forward it is part of.
        first: the call of the convolution.
    """

    def __init__(self, owner: nn.Module, first: fx.Node) -> None:
        self.owner = owner
        self.nodes = [first]
        self.parts: list[Callable[..., Tensor]] = [owner.get_submodule(str(first.target))]
        self.shortcut: fx.Node | None = None
        self.activation = NONE
        while self.activation == NONE and len(self.nodes[-1].users) == 1:
            following = next(iter(self.nodes[-1].users))
            if not self._takes(following):
                break
            self.nodes.append(following)

    def replace(self) -> None:
        """Put one call in the place of all that it takes in."""
        first, last = self.nodes[0], self.nodes[-1]
        inputs = (first.args[0],) if self.shortcut is None else (first.args[0], self.shortcut)
        with last.graph.inserting_before(last):
            call = last.graph.call_function(_Kernel(self.parts, self.activation).run, inputs)
        last.replace_all_uses_with(call)
        for node in reversed(self.nodes):
            last.graph.erase_node(node)

    def _takes(self, node: fx.Node) -> bool:
        """Whether a kernel can do this as well; then it is one of the parts."""
        if node.op == "call_module":
            return self._takes_module(self.owner.get_submodule(str(node.target)))
        if node.op != "call_function":
            return False
        if node.target in ADDITIONS and self.shortcut is None:
            return self._takes_sum(node)
        if node.target in RECTIFIERS:
            self.activation = ("relu", [])
            self.parts.append(F.relu)
            return True
        return False

    def _takes_module(self, module: nn.Module) -> bool:
        *before, last = _flat(module) or [nn.Identity()]
        known = type(last) in ACTIVATIONS and (self.shortcut is None or type(last) is nn.ReLU)
        if not all(type(each) in PASSED for each in before) or not (known or type(last) in PASSED):
            return False
        self.activation = ACTIVATIONS[type(last)](last) if known else NONE
        self.parts.append(module)
        return True

    def _takes_sum(self, node: fx.Node) -> bool:
        mine = self.nodes[-1]
        others = [value for value in node.args if isinstance(value, fx.Node) and value is not mine]
        if len(others) != 1 or node.kwargs or (node.target is operator.iadd and node.args[0] is not mine):
            return False
        self.shortcut = others[0]
        self.parts.append(operator.add)
        return True


def _flat(module: nn.Module) -> list[nn.Module]:
    """The modules that run in a sequence, if it is one; else itself."""
    if type(module) is not nn.Sequential:
        return [module]
    return [inner for child in module.children() for inner in _flat(child)]


class _Kernel:
    """Does at once what a convolution and the parts after it do; its weights stay in the order in which oneDNN reads them.

    Args:
        parts: the convolution and what follows it.
        activation: what comes last, and its constants.
    """

    def __init__(self, parts: Sequence[Callable[..., Tensor]], activation: _Activation) -> None:
        self._parts = parts
        self._convolution = convolution = cast(nn.Conv2d, parts[0])
        self._geometry = convolution.padding, convolution.stride, convolution.dilation, convolution.groups
        self._modules = [module for part in parts if isinstance(part, nn.Module) for module in part.modules()]
        self._activation = activation
        self._packed_for: tuple[torch.dtype, torch.Size] | None = None
        self._weights: tuple[Tensor, Tensor]

    def run(self, x: Tensor, *shortcut: Tensor) -> Tensor:
        """[B, C, H, W], and what is added, [B, C', H', W'], if anything is -> [B, C', H', W']."""
        if any(module._forward_hooks or module._forward_pre_hooks for module in self._modules):
            self._run_parts(x, *shortcut)
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        inputs = [value.to(dtype) for value in (x, *shortcut)]
        if self._packed_for != (dtype, x.shape):
            self._pack(dtype, x.shape)
        name, constants = self._activation
        compute: Any = torch.ops.mkldnn._convolution_pointwise
        if shortcut:
            last = None if name == "none" else name, constants, ""
            return cast(Tensor, compute.binary(*inputs, *self._weights, *self._geometry, "add", 1.0, *last))
        return cast(Tensor, compute(*inputs, *self._weights, *self._geometry, name, constants, ""))

    def _pack(self, dtype: torch.dtype, shape: torch.Size) -> None:
        """Sort the weights for inputs of one shape; others are computed just the same, but sorted anew each time."""
        convolution = self._convolution
        weight, bias = (cast(Tensor, value).to(dtype) for value in (convolution.weight, convolution.bias))
        self._weights = torch.ops.mkldnn._reorder_convolution_weight(weight, *self._geometry, shape), bias
        self._packed_for = dtype, shape

    def _run_parts(self, x: Tensor, *shortcut: Tensor) -> None:
        """Run the parts for their hooks."""
        for part in self._parts:
            x = part(x, *shortcut) if part is operator.add else part(x)
