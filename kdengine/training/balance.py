"""Keeping the gradient of a method from drowning that of the task."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

__all__ = ["backward_clipped", "clip_share"]


def clip_share(epoch: int) -> float:
    """How much of the task's gradient norm a clipped method may reach: sigmoid(epoch), from 0.5 towards 1.

    Source: Lee, Kim, Song, "Self-supervised Knowledge Distillation Using Singular Value Decomposition", ECCV 2018,
    arXiv:1807.06819, as in the authors' code.

    Args:
        epoch: epoch within the phase, from 0.
    """
    return float(torch.sigmoid(torch.tensor(float(epoch))))


def backward_clipped(
    backward: Callable[..., None], free: Tensor, clipped: Tensor, parameters: Sequence[nn.Parameter], share: float
) -> None:
    """Leave in every ``.grad`` the gradient of ``free``, plus that of ``clipped`` shortened to ``share`` of its norm.

    Norms are taken parameter by parameter. A parameter that ``free`` does not reach, such as a connector's, keeps the
    whole gradient of ``clipped``. No parameter may have a gradient before.

    Args:
        backward: what makes gradients of a loss; takes ``retain_graph``.
        free: loss [] whose gradient stays as it is.
        clipped: loss [] whose gradient is shortened.
        parameters: all trainable parameters.
        share: largest norm, as a share of the norm of the gradient of ``free``.
    """
    backward(clipped, retain_graph=True)
    aside = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    backward(free)
    for parameter, gradient in zip(parameters, aside, strict=True):
        if gradient is not None and parameter.grad is not None:
            gradient = gradient * _factor(share * parameter.grad.norm(), gradient.norm()) + parameter.grad
        if gradient is not None:
            parameter.grad = gradient


def _factor(allowed: Tensor, norm: Tensor) -> Tensor:
    tiny = torch.finfo(norm.dtype).tiny
    return (allowed / norm.clamp(min=tiny)).clamp(max=1.0)
