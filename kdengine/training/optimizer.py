"""Optimizers and schedules from timm, built from the settings of a run."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from timm.optim import create_optimizer_v2, get_optimizer_class, list_optimizers
from timm.scheduler import CosineLRScheduler, MultiStepLRScheduler
from torch import nn

from kdengine.config.settings import TrainSettings
from kdengine.errors import SettingsError, did_you_mean

__all__ = ["begin_momentum", "check_optimizer", "make_optimizer", "make_schedule"]

KERNELS = {"cpu": "foreach", "cuda": "fused"}
SEVERAL_KERNELS = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
"""Optimizers that offer all implementations."""


def check_optimizer(settings: TrainSettings) -> None:
    """Refuse an optimizer that timm does not know or cannot build, before anything is trained.

    Raises:
        SettingsError: names similar optimizers.
    """
    known, name = [str(name) for name in list_optimizers()], settings.concrete.optimizer
    if name.lower() not in known:
        near = did_you_mean(name, known) or "Name one of timm's, such as sgd, adamw or lamb."
        raise SettingsError(f"train.optimizer = '{name}' is unknown. {near}")
    try:
        make_optimizer([nn.Parameter(torch.zeros(1))], settings)
    except Exception as error:  # optimizers raise errors of any type
        raise SettingsError(f"train.optimizer = '{name}' cannot be created: {error}. Choose another.") from error


def make_optimizer(parameters: Sequence[Any], settings: TrainSettings) -> torch.optim.Optimizer:
    """Create a timm optimizer.

    Args:
        parameters: parameters, or groups of them, which may have a ``weight_decay`` and an ``lr_scale`` of their own.
        settings: training settings.
    """
    chosen, options = settings.concrete, _kernels(settings.concrete.optimizer, parameters)
    if chosen.optimizer.lower() == "sgd":
        options["nesterov"] = chosen.nesterov and chosen.momentum > 0
    optimizer: torch.optim.Optimizer = create_optimizer_v2(
        list(parameters),
        chosen.optimizer,
        lr=chosen.lr,
        weight_decay=chosen.weight_decay,
        momentum=chosen.momentum,
        **options,
    )
    return optimizer


def _kernels(name: str, parameters: Sequence[Any]) -> dict[str, Any]:
    """Which of torch's implementations to use: on a GPU the fused one, on a CPU the one that treats all tensors at once.

    Only where they are known to do the same: on a CPU, foreach gives the very bits of a loop over the parameters. Elsewhere
    the optimizer chooses.
    """
    first = parameters[0]["params"][0] if isinstance(parameters[0], dict) else parameters[0]
    kind = KERNELS.get(first.device.type)
    return {kind: True} if kind and get_optimizer_class(name.lower(), bind_defaults=False) in SEVERAL_KERNELS else {}


def begin_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Begin the momentum of torch's fused SGD at zero, which changes nothing but that a first step may be skipped.

    It would be left without values by a first step whose gradients are too large for fp16.
    """
    if not isinstance(optimizer, torch.optim.SGD):
        return
    for group in optimizer.param_groups:
        for parameter in group["params"] if group["fused"] and group["momentum"] and not group["dampening"] else ():
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def make_schedule(optimizer: torch.optim.Optimizer, settings: TrainSettings, updates: int, steps: int) -> Any:
    """Create a timm schedule for a phase of ``updates`` steps; None for a constant rate without warm-up."""
    chosen = settings.concrete
    warmup = chosen.warmup_epochs * steps
    if chosen.schedule == "constant" and not warmup:
        return None
    shared: dict[str, Any] = {
        "t_in_epochs": False,
        "warmup_t": warmup,
        "warmup_lr_init": chosen.lr / 10,
        "warmup_prefix": False,  # the warm-up is part of the phase rather than a delay before it
    }
    if chosen.schedule == "cosine":
        with _silenced(CosineLRScheduler.__module__):  # timm warns of a phase of a single update
            return CosineLRScheduler(optimizer, t_initial=updates, **shared)
    shares = chosen.milestones if chosen.schedule == "multistep" else ()
    marks = sorted(round(share * updates) + 1 for share in shares)  # timm lowers the rate one update before a mark
    return MultiStepLRScheduler(optimizer, marks, chosen.decay, **shared)


@contextmanager
def _silenced(name: str) -> Iterator[None]:
    """Hear nothing from a logger."""
    logger = logging.getLogger(name)
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before
