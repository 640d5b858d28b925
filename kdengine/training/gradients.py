"""Gradients before they change any weight: clipped to that of the task, and refused by name where they are not finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress

import torch
from torch import Tensor, nn

from kdengine.errors import TrainingError

__all__ = ["ADVICE", "backward_clipped", "clip_share", "fault_of", "gradient_fault", "loss_fault", "norm_of_gradients"]

ADVICE = (
    "The weights were left as they were before this step. A lower train.lr, train.clip_grad=1 or a smaller weight may help."
)


def norm_of_gradients(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The norm of all gradients together, []; not finite if any of them is not."""
    return nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])


def loss_fault(where: str, terms: Mapping[str, Tensor]) -> TrainingError | None:
    """What to say of terms, each [], that are not all finite.

    Args:
        where: lane, epoch and step.
        terms: weighted, by name.
    """
    values = {name: float(value.detach()) for name, value in terms.items()}
    bad = [f"{name} = {value}" for name, value in values.items() if not math.isfinite(value)]
    if not bad and torch.stack(list(terms.values())).sum().isfinite():
        return None
    return TrainingError(f"{where}: the loss is no longer finite: {', '.join(bad) or f'the sum of {values}'}. {ADVICE}")


def gradient_fault(where: str, terms: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter]) -> TrainingError | None:
    """What to say where the terms are finite, and not all of their gradients are.

    Args:
        where: lane, epoch and step.
        terms: each [], with its history.
        parameters: name -> parameter.
    """
    bad = [f"{term} (at {', '.join(names[:3])})" for term in terms if (names := list(_unfit(terms[term], parameters)))]
    if not bad:
        return None
    return TrainingError(f"{where}: the loss is finite, but its gradient is not, because of {'; '.join(bad)}. {ADVICE}")


def fault_of(
    where: str,
    terms: Mapping[str, Tensor],
    again: Callable[[], Mapping[str, Tensor]],
    parameters: Mapping[str, nn.Parameter],
) -> TrainingError:
    """Why a step was refused: the terms that are not finite, or those whose gradients are not.

    Args:
        where: lane, epoch and step.
        terms: weighted, each [], by name.
        again: repeats the step and gives its terms with their history.
        parameters: name -> parameter.
    """
    fault = loss_fault(where, terms)
    if fault is None:
        with suppress(RuntimeError):  # a method may have used up what it differentiates
            fault = gradient_fault(where, again(), parameters)
    return fault or TrainingError(f"{where}: the gradient of all terms together is not finite. {ADVICE}")


def _unfit(term: Tensor, parameters: Mapping[str, nn.Parameter]) -> Iterator[str]:
    """Names of the parameters for which a term has a gradient that is not finite."""
    if not term.requires_grad:
        return
    found = torch.autograd.grad(term, list(parameters.values()), retain_graph=True, allow_unused=True)
    yield from (
        name for name, gradient in zip(parameters, found, strict=True) if gradient is not None and not gradient.isfinite().all()
    )


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
