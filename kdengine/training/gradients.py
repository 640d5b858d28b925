"""Gradient checks before an update: clipping to the task's gradient, and naming terms that are not finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache

import torch
from torch import Tensor, nn

from kdengine.errors import TrainingError

__all__ = ["ADVICE", "backward_clipped", "clip_share", "fault_of", "gradient_fault", "loss_fault", "norm_of_gradients"]

ADVICE = "The weights were not updated. Try a lower train.lr, train.clip_grad=1, or a smaller weight of the method."
ALIKE = {(Tensor, torch.device("cpu"), torch.float32)}
"""Type, device and precision of gradients whose norms need not be sorted by these; a GPU works behind the host anyway."""


@torch.no_grad()
def norm_of_gradients(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The global gradient norm, []; not finite if any gradient is not."""
    gradients = [gradient for parameter in parameters if (gradient := parameter.grad) is not None]
    if {(type(gradient), gradient.device, gradient.dtype) for gradient in gradients} == ALIKE:
        norms = torch.stack(torch._foreach_norm(gradients))  # the same bits, without sorting them
        norm: Tensor = torch.linalg.vector_norm(norms)
        return norm
    return nn.utils.get_total_norm(gradients)


def loss_fault(where: str, terms: Mapping[str, Tensor]) -> TrainingError | None:
    """An error that names the non-finite terms; None if all are finite.

    Args:
        where: lane, epoch and step.
        terms: name -> weighted term [].
    """
    values = {name: float(value.detach()) for name, value in terms.items()}
    bad = [f"{name} = {value}" for name, value in values.items() if not math.isfinite(value)]
    if not bad and torch.stack(list(terms.values())).sum().isfinite():
        return None
    return TrainingError(f"{where}: the loss is no longer finite: {', '.join(bad) or f'the sum of {values}'}. {ADVICE}")


def gradient_fault(where: str, terms: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter]) -> TrainingError | None:
    """An error that names the terms whose gradients are not finite; None if all are finite.

    Args:
        where: lane, epoch and step.
        terms: name -> term [], with its graph.
        parameters: name -> parameter.
    """
    bad = [f"{term} (at {', '.join(names[:3])})" for term in terms if (names := list(_unfit(terms[term], parameters)))]
    if not bad:
        return None
    return TrainingError(f"{where}: the loss is finite, but not the gradient of {'; '.join(bad)}. {ADVICE}")


def fault_of(
    where: str,
    images: Tensor,
    terms: Mapping[str, Tensor],
    again: Callable[[], Mapping[str, Tensor]],
    parameters: Mapping[str, nn.Parameter],
) -> TrainingError:
    """Explain a rejected step by the images, the terms, or the gradients of terms, that are not finite.

    Args:
        where: lane, epoch and step.
        images: of the batch, [B, C, H, W].
        terms: name -> weighted term [].
        again: repeats the forward and returns its terms with their graph.
        parameters: name -> parameter.
    """
    if not images.isfinite().all():
        return TrainingError(f"{where}: the images contain NaN or infinity. The weights were not updated; fix the data.")
    fault = loss_fault(where, terms)
    if fault is None:
        with suppress(RuntimeError):  # a method may have freed the graph
            fault = gradient_fault(where, again(), parameters)
    return fault or TrainingError(f"{where}: the gradient of the summed terms is not finite. {ADVICE}")


def _unfit(term: Tensor, parameters: Mapping[str, nn.Parameter]) -> Iterator[str]:
    """Names of the parameters for which the gradient of a term is not finite."""
    if not term.requires_grad:
        return
    gradients = torch.autograd.grad(term, list(parameters.values()), retain_graph=True, allow_unused=True)
    yield from (
        name
        for name, gradient in zip(parameters, gradients, strict=True)
        if gradient is not None and not gradient.isfinite().all()
    )


@lru_cache(maxsize=1)  # asked in every step of an epoch
def clip_share(epoch: int) -> float:
    """Largest norm of a clipped gradient, as a share of the task's: sigmoid(epoch), from 0.5 towards 1.

    Source: Lee, Kim, Song, "Self-supervised Knowledge Distillation Using Singular Value Decomposition", ECCV 2018,
    arXiv:1807.06819, as in the authors' code.

    Args:
        epoch: epoch within the phase, from 0.
    """
    return float(torch.sigmoid(torch.tensor(float(epoch))))


def backward_clipped(
    backward: Callable[..., None], free: Tensor, clipped: Tensor, parameters: Sequence[nn.Parameter], share: float
) -> None:
    """Accumulate into ``.grad`` the gradient of ``free`` plus that of ``clipped``, whose norm is limited.

    Norms are computed per parameter. A parameter that ``free`` does not reach, such as a connector's, keeps the
    unclipped gradient of ``clipped``. All ``.grad`` must be None on entry.

    Args:
        backward: computes gradients of a loss; accepts ``retain_graph``.
        free: loss [] whose gradient is not clipped.
        clipped: loss [] whose gradient is clipped.
        parameters: all trainable parameters.
        share: largest norm of the clipped gradient, as a share of the norm of the gradient of ``free``.
    """
    backward(clipped, retain_graph=True)
    unclipped = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    backward(free)
    for parameter, gradient in zip(parameters, unclipped, strict=True):
        if gradient is not None and parameter.grad is not None:
            gradient = gradient * _factor(share * parameter.grad.norm(), gradient.norm()) + parameter.grad
        if gradient is not None:
            parameter.grad = gradient


def _factor(allowed: Tensor, norm: Tensor) -> Tensor:
    tiny = torch.finfo(norm.dtype).tiny
    return (allowed / norm.clamp(min=tiny)).clamp(max=1.0)
