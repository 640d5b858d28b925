"""Random numbers that depend on seed, epoch and an image's position alone: whatever reads the image, and in whatever order."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["hashed", "uniform"]

WORD = 2**64
STEP = 0x9E3779B97F4A7C15
FACTORS = (30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)
LAST_SHIFT = 31
"""Constants of splitmix64: Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014."""


def hashed(*keys: int) -> int:
    """A number in 0 ... 2**63 - 1 that depends on all keys and on their order."""
    state = 0
    for key in keys:
        state = (state + key + STEP) % WORD
        for shift, factor in FACTORS:
            state = (state ^ (state >> shift)) * factor % WORD
        state ^= state >> LAST_SHIFT
    return state % 2**63


def uniform(seed: int, epoch: int, index: Tensor, count: int) -> Tensor:
    """Draws from [0, 1), float64 [B, count]: the same ones for an image in whatever batch it comes.

    Args:
        seed: of the run.
        epoch: from 0.
        index: position of each image in the data set, int64 [B].
        count: draws for each image.
    """
    own = _mixed(index.cpu() * _signed(STEP) + hashed(seed, epoch))
    steps = torch.tensor([_signed((number + 1) * STEP) for number in range(count)], dtype=torch.int64)
    return _shifted(_mixed(own[:, None] + steps), 11).double() / 2**53


def _mixed(state: Tensor) -> Tensor:
    """The output function of splitmix64, on int64, whose products wrap around."""
    for shift, factor in FACTORS:
        state = (state ^ _shifted(state, shift)) * _signed(factor)
    return state ^ _shifted(state, LAST_SHIFT)


def _shifted(state: Tensor, places: int) -> Tensor:
    """A shift to the right that fills with zeros; that of signed numbers would repeat the sign."""
    shifted: Tensor = (state >> places) & (2 ** (64 - places) - 1)
    return shifted


def _signed(value: int) -> int:
    """A number modulo 2**64 as int64."""
    return (value + WORD // 2) % WORD - WORD // 2
