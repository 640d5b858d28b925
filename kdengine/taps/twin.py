"""Copies of networks that run to be watched: on the meta device only shapes are computed, and no memory is taken."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

__all__ = ["QuickBatchNorm", "copy_to"]


def copy_to(device: str, model: nn.Module) -> nn.Module:
    """A deep copy on the device (on meta, without allocating memory), without the user's hooks."""
    memo: dict[int, Any] = {}
    for module in model.modules():
        for value in vars(module).values():
            if type(value) in (dict, OrderedDict) and not value:  # most of a module; deepcopy takes a detour for each
                memo[id(value)] = type(value)()
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            memo[id(hooks)] = OrderedDict()
        for tensor in _tensors_on(module):
            if id(tensor) not in memo:
                memo[id(tensor)] = _moved(tensor, device)
    return copy.deepcopy(model, memo)


class QuickBatchNorm(TorchFunctionMode):
    """While active, batch normalisation by kept statistics on the meta device says its shape and computes nothing.

    PyTorch works it out there operation by operation in Python, which takes most of the time of a network's forward.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is nn.functional.batch_norm and _only_a_shape(*args, **kwargs):
            return torch.empty_like(args[0])
        return func(*args, **kwargs)


def _only_a_shape(
    image: Tensor | None = None,
    mean: Tensor | None = None,
    var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    *_: Any,
    **__: Any,
) -> bool:
    """Whether this normalisation of [B, C, ...] would succeed on the meta device, and leave nothing but its output."""
    if image is None or training or image.ndim < 2 or image.requires_grad or torch.is_grad_enabled():
        return False
    others = [tensor for tensor in (mean, var, weight, bias) if tensor is not None]
    alike = all(tensor.shape == image.shape[1:2] and tensor.dtype == image.dtype for tensor in others)
    return alike and mean is not None and var is not None and all(tensor.is_meta for tensor in (image, *others))


def _tensors_on(module: nn.Module) -> Iterator[Tensor]:
    """Parameters, buffers, and tensors that a forward left as plain attributes, which ``deepcopy`` would refuse."""
    for value in vars(module).values():
        items = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else (value,)
        yield from (item for item in items if isinstance(item, Tensor))


def _moved(tensor: Tensor, device: str) -> Tensor:
    copied = tensor.detach().to(device, copy=True)
    return nn.Parameter(copied, requires_grad=False) if isinstance(tensor, nn.Parameter) else copied
