"""Several processes in the threads of one, so that what a method keeps can be tested without starting any."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from kdengine.methods.processes import Processes

__all__ = ["in_processes"]

Returned = TypeVar("Returned")
PATIENCE = 30.0
"""Seconds that one waits for another which asks for nothing, before both fail."""


def in_processes(
    count: int, act: Callable[[int, Processes], Returned], shares: Sequence[int] = (), patience: float = PATIENCE
) -> list[Returned]:
    """Act as each of several processes that train together, in threads of this one; returns what each returned.

    Give ``processes`` to a step: ``make_step(..., processes=processes)``.

    Args:
        count: how many.
        act: takes the rank, from 0, and the processes as a method sees them.
        shares: images of each; found out with every exchange if left out.
        patience: seconds that one waits for the others.

    Raises:
        threading.BrokenBarrierError: one waits for others that ask for nothing: they would wait forever.
    """
    barrier, slots = threading.Barrier(count, timeout=patience), [torch.empty(0)] * count

    def exchange(rank: int, value: Tensor) -> Tensor:
        slots[rank] = value
        barrier.wait()
        stacked = torch.stack(slots)
        barrier.wait()  # nobody writes the next value before all have read these
        return stacked

    def one(rank: int) -> Returned:
        try:
            return act(rank, Processes(count, tuple(shares), lambda value: exchange(rank, value)))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(count) as pool:
        running = [pool.submit(one, rank) for rank in range(count)]
    faults = [fault for future in running if (fault := future.exception()) is not None]
    for fault in sorted(faults, key=lambda fault: isinstance(fault, threading.BrokenBarrierError)):
        raise fault  # rather the cause than those that waited for it
    return [future.result() for future in running]
