"""Training settings that follow the network where the user leaves them open."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from kdengine.config.train_settings import OPEN, ConcreteTrain, TrainSettings
from kdengine.errors import counted

__all__ = ["OPEN", "Followed", "follow", "left_open"]

CONVOLUTIONAL = "a convolutional network"
SCRATCH = ConcreteTrain()
"""What a convolutional network from scratch is trained with."""
MOMENTUM_BASED = frozenset({"sgd", "sgdp", "sgdw", "momentum", "nesterov", "lars", "nlars", "larc", "nlarc"})
"""Optimizers whose rate is near 0.1; that of the others, which scale each step themselves, is near 0.001."""
DECOUPLED = frozenset({"adamw", "nadamw", "lamb", "lion"})
"""Optimizers whose weight decay is no part of the gradient, and therefore larger."""
ADAPTIVE_LR, ADAPTIVE_BATCH, DECOUPLED_DECAY, LONGEST_WARMUP = 1e-3, 128, 0.05, 5
TITLES = {"sgd": "SGD", "adamw": "AdamW", "adam": "Adam"}


@dataclass(frozen=True)
class Followed:
    """Train settings with the values that follow a network.

    Attributes:
        settings: nothing in ``OPEN`` is left open.
        why: a sentence for every value in ``OPEN``.
        network: what the network was found to be: ``a convolutional network from scratch``.
        is_chosen: whether any value follows the network, rather than being set by the user.
    """

    settings: TrainSettings
    why: Mapping[str, str]
    network: str
    is_chosen: bool

    @property
    def values(self) -> dict[str, Any]:
        """The values in ``OPEN``, by name."""
        return {name: getattr(self.settings, name) for name in OPEN}

    def __str__(self) -> str:
        chosen = self.settings.concrete
        parts = [TITLES.get(chosen.optimizer.lower(), chosen.optimizer), f"lr {chosen.lr:g}"]
        if chosen.weight_decay != SCRATCH.weight_decay:
            parts.append(f"weight decay {chosen.weight_decay:g}")
        if chosen.warmup_epochs:
            parts.append(f"{counted(chosen.warmup_epochs, 'epoch')} of warm-up")
        if chosen.clip_grad:
            parts.append(f"gradients clipped at {chosen.clip_grad:g}")
        return f"{', '.join(parts)}: {self.network if self.is_chosen else 'as set'}"


def left_open(settings: TrainSettings) -> list[str]:
    """Names of the settings that are to follow a network."""
    return [name for name in OPEN if getattr(settings, name) is None]


def follow(network: nn.Module, settings: TrainSettings, *, attends: bool = False, pretrained: bool = False) -> Followed:
    """Choose what the user left open; what is set always wins, and what is chosen goes by it.

    Args:
        network: the network to train.
        settings: as given.
        attends: whether its forward computes attention.
        pretrained: whether it starts from trained weights.
    """
    kind, opened = _kind(network, attends), left_open(settings)
    convolutional = kind == CONVOLUTIONAL
    optimizer = settings.optimizer or (SCRATCH.optimizer if convolutional else "adamw")
    lr, why_lr = _rate(optimizer, settings.batch_size * settings.accumulate, pretrained)
    decoupled = optimizer.lower() in DECOUPLED
    warmup = 0 if convolutional else min(LONGEST_WARMUP, settings.epochs // 10)
    choices: dict[str, tuple[Any, str]] = {
        "optimizer": (optimizer, f"usual for {kind}"),
        "lr": (lr, why_lr),
        "weight_decay": (DECOUPLED_DECAY if decoupled else SCRATCH.weight_decay, f"usual with {optimizer}"),
        "warmup_epochs": (
            warmup,
            f"{kind} needs none" if convolutional else f"{kind} needs it: a tenth of the epochs, up to 5",
        ),
        "clip_grad": (SCRATCH.clip_grad, f"{kind} needs none") if convolutional else (1.0, f"steadies {kind}"),
    }
    chosen = {name: choices[name][0] for name in opened}
    why = {name: choices[name][1] if name in opened else "as set" for name in OPEN}
    start = "with pretrained weights" if pretrained else "from scratch"
    return Followed(settings.model_copy(update=chosen), why, f"{kind} {start}", bool(opened))


def _rate(optimizer: str, batch_size: int, pretrained: bool) -> tuple[float, str]:
    """The learning rate, and why."""
    if optimizer.lower() in MOMENTUM_BASED:
        rate, why = SCRATCH.lr, f"usual with {optimizer}"
    else:
        scale = min(1.0, math.sqrt(batch_size / ADAPTIVE_BATCH))
        rate = float(f"{ADAPTIVE_LR * scale:.3g}")
        why = f"usual with {optimizer}" + (f", lowered for batches of {batch_size}" if scale < 1 else "")
    if not pretrained:
        return rate, why
    return float(f"{rate / 10:.3g}"), f"a tenth of {rate:g}, because the weights are pretrained"


def _kind(network: nn.Module, attends: bool) -> str:
    """What a network is, as far as it decides how to train it."""
    if attends:
        return "a network with attention"
    by_layer = [_normalises_by_layer(module) for module in network.modules() if _is_normalisation(module)]
    if by_layer and all(by_layer):
        return "a network normalised by LayerNorm"
    linear, convolutions = (sum(isinstance(module, kind) for module in network.modules()) for kind in (nn.Linear, nn.Conv2d))
    if not by_layer and linear > 2 * convolutions > 0:
        return "a network of linear layers on patches"
    return CONVOLUTIONAL


def _is_normalisation(module: nn.Module) -> bool:
    kinds = nn.modules.batchnorm._NormBase | nn.GroupNorm | nn.LayerNorm
    return isinstance(module, kinds) or re.search(r"(batch|layer|rms|group|instance)_?norm", _name(module)) is not None


def _normalises_by_layer(module: nn.Module) -> bool:
    """Whether a normalisation is over all channels of an image or token, rather than over a batch or groups of channels."""
    if isinstance(module, nn.GroupNorm):
        return module.num_groups == 1
    return isinstance(module, nn.LayerNorm) or re.search(r"(layer|rms)_?norm", _name(module)) is not None


def _name(module: nn.Module) -> str:
    return type(module).__name__.lower()
