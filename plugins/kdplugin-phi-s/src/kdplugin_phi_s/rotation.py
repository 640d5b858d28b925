"""Rotations after which every coordinate has the same variance."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["evening", "hadamard"]

# D: number of coordinates.


def evening(variances: Sequence[float]) -> Tensor:
    """An orthogonal matrix that gives uncorrelated coordinates one common variance, their mean; [D, D], float64.

    A Hadamard matrix, which spreads each coordinate over all others in equal parts, where one of this size is known; else a
    chain of rotations of two coordinates each, as in the constructive proof of the Schur-Horn theorem.

    Args:
        variances: of the D coordinates.
    """
    spread = hadamard(len(variances))
    return _chain(list(variances)) if spread is None else spread / math.sqrt(len(variances))


def hadamard(size: int) -> Tensor | None:
    """A matrix of 1 and -1 with orthogonal rows, [size, size], float64; None if Sylvester's and Paley's rules give none."""
    if size in (1, 2):
        return torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)[:size, :size]
    if size < 1 or size % 4:
        return None
    half = hadamard(size // 2)
    if half is not None:  # Sylvester
        return torch.cat([torch.cat([half, half], 1), torch.cat([half, -half], 1)])
    if _is_prime(size - 1):  # Paley I: size - 1 is 3 modulo 4
        return torch.eye(size, dtype=torch.float64) + _conference(size - 1, -1.0)
    prime = size // 2 - 1
    if _is_prime(prime) and prime % 4 == 1:  # Paley II
        core, unit = _conference(prime, 1.0), torch.eye(prime + 1, dtype=torch.float64)
        return torch.cat([torch.cat([core + unit, core - unit], 1), torch.cat([core - unit, -core - unit], 1)])
    return None


def _conference(prime: int, sign: float) -> Tensor:
    """Paley's conference matrix [prime + 1, prime + 1]: zero diagonal, else 1 and -1; ``sign`` 1 for a symmetric one."""
    squares = {number * number % prime for number in range(1, prime)}
    character = [0.0, *(1.0 if number in squares else -1.0 for number in range(1, prime))]
    matrix = torch.zeros(prime + 1, prime + 1, dtype=torch.float64)
    matrix[0, 1:], matrix[1:, 0] = 1.0, sign
    matrix[1:, 1:] = torch.tensor([[character[(row - column) % prime] for column in range(prime)] for row in range(prime)])
    return matrix


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1))


def _chain(variances: list[float]) -> Tensor:
    """Rotate the largest and the smallest variance so that one becomes the mean, until all are."""
    rows, mean = torch.eye(len(variances), dtype=torch.float64), sum(variances) / len(variances)
    waiting = list(range(len(variances)))
    while len(waiting) > 1:
        high, low = (choose(waiting, key=variances.__getitem__) for choose in (max, min))
        gap = variances[high] - variances[low]
        if gap <= 1e-12 * mean:
            break
        sine = math.sqrt(min(1.0, max(0.0, (variances[high] - mean) / gap)))
        cosine = math.sqrt(1.0 - sine**2)
        pair = torch.tensor([[cosine, sine], [-sine, cosine]], dtype=torch.float64)
        rows[[high, low]] = pair @ rows[[high, low]]
        variances[low] += variances[high] - mean
        waiting.remove(high)
    return rows
