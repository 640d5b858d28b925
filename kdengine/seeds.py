"""Seeded random numbers that leave the global random states untouched."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock

import numpy as np
import torch

__all__ = ["drawing_from", "seeded", "undisturbed"]

_turn = RLock()


@contextmanager
def undisturbed() -> Iterator[None]:
    """Hold a lock while process-wide state is changed and restored.

    Random states and warning filters are process-wide, and several engines may train in threads of one process.
    """
    with _turn:
        yield


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, what torch draws on the CPU depends on the seed alone; its global random state is restored on exit."""
    with undisturbed(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would touch the accelerators' generators too
        yield


@contextmanager
def drawing_from(seed: int) -> Iterator[None]:
    """Like :func:`seeded` for every generator that image transforms may use: those of Python, NumPy and torch."""
    with seeded(seed):
        python_state, numpy_state = random.getstate(), np.random.get_state()
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)


def _renew_lock() -> None:
    """Give a forked process a new lock, because the thread that holds the old one may not exist in it."""
    global _turn
    _turn = RLock()


if sys.platform != "win32":
    # Fork between two draws, never within one: the child would find the mutex of torch's generator locked forever.
    os.register_at_fork(before=lambda: _turn.acquire(), after_in_parent=lambda: _turn.release(), after_in_child=_renew_lock)
