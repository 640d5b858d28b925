"""Drawing by a seed without disturbing anybody else's draws."""

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
    """One thread at a time, so that what belongs to the whole process can be changed inside and put back.

    Random states and the filters of warnings are such things; several engines may train in threads of one process.
    """
    with _turn:
        yield


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """What is drawn inside on the CPU depends on the seed alone; the global random state is as before afterwards."""
    with undisturbed(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would touch the accelerators' generators too
        yield


@contextmanager
def drawing_from(seed: int) -> Iterator[None]:
    """The same for all the random states that transforms of images draw from: those of Python, NumPy and torch."""
    with seeded(seed):
        before = random.getstate(), np.random.get_state()
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])


def _forget_who_has_it() -> None:
    """A lock of its own for a forked process, in which the other threads do not live on to release this one."""
    global _turn
    _turn = RLock()


if sys.platform != "win32":
    # A process is forked between two draws, never in the middle of one: it would find torch's generator locked for ever.
    os.register_at_fork(
        before=lambda: _turn.acquire(), after_in_parent=lambda: _turn.release(), after_in_child=_forget_who_has_it
    )
