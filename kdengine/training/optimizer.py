"""Optimizers and schedules from timm, built from the settings of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.optim import create_optimizer_v2, list_optimizers
from timm.scheduler import CosineLRScheduler, MultiStepLRScheduler
from torch import nn

from kdengine.config.settings import TrainSettings
from kdengine.errors import SettingsError, did_you_mean

__all__ = ["check_optimizer", "make_optimizer", "make_schedule"]


def check_optimizer(settings: TrainSettings) -> None:
    """Refuse an optimizer that timm does not know or cannot build, before anything is trained.

    Raises:
        SettingsError: names similar optimizers.
    """
    known = [str(name) for name in list_optimizers()]
    if settings.optimizer.lower() not in known:
        near = did_you_mean(settings.optimizer, known) or "Name one of timm's, such as sgd, adamw or lamb."
        raise SettingsError(f"train.optimizer = '{settings.optimizer}' is unknown. {near}")
    try:
        make_optimizer([nn.Parameter(torch.zeros(1))], settings)
    except Exception as error:  # optimizers raise errors of any type
        raise SettingsError(f"train.optimizer = '{settings.optimizer}' cannot be created: {error}. Choose another.") from error


def make_optimizer(parameters: Sequence[Any], settings: TrainSettings) -> torch.optim.Optimizer:
    """Create a timm optimizer.

    Args:
        parameters: parameters, or groups of them, which may have a ``weight_decay`` and an ``lr_scale`` of their own.
        settings: training settings.
    """
    options: dict[str, Any] = {}
    if settings.optimizer.lower() == "sgd":
        options["nesterov"] = settings.nesterov and settings.momentum > 0
    optimizer: torch.optim.Optimizer = create_optimizer_v2(
        list(parameters),
        settings.optimizer,
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        momentum=settings.momentum,
        **options,
    )
    return optimizer


def make_schedule(optimizer: torch.optim.Optimizer, settings: TrainSettings, updates: int, steps: int) -> Any:
    """Create a timm schedule for a phase of ``updates`` steps; None for a constant rate without warm-up."""
    warmup = settings.warmup_epochs * steps
    if settings.schedule == "constant" and not warmup:
        return None
    shared: dict[str, Any] = {
        "t_in_epochs": False,
        "warmup_t": warmup,
        "warmup_lr_init": settings.lr / 10,
        "warmup_prefix": False,  # the warm-up is part of the phase rather than a delay before it
    }
    if settings.schedule == "cosine":
        return CosineLRScheduler(optimizer, t_initial=updates, **shared)
    shares = settings.milestones if settings.schedule == "multistep" else ()
    marks = sorted(round(share * updates) + 1 for share in shares)  # timm lowers the rate one update before a mark
    return MultiStepLRScheduler(optimizer, marks, settings.decay, **shared)
