"""Whether a step may change the weights: losses and gradients must be finite, and what is not is called by its name."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from kdengine.errors import TrainingError

__all__ = ["ADVICE", "gradient_fault", "loss_fault", "norm_of_gradients"]

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


def _unfit(term: Tensor, parameters: Mapping[str, nn.Parameter]) -> Iterator[str]:
    """Names of the parameters for which a term has a gradient that is not finite."""
    if not term.requires_grad:
        return
    found = torch.autograd.grad(term, list(parameters.values()), retain_graph=True, allow_unused=True)
    yield from (
        name for name, gradient in zip(parameters, found, strict=True) if gradient is not None and not gradient.isfinite().all()
    )
