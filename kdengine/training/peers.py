"""The processes of a run, as they speak to each other between steps: over gloo on the host, whatever they train on."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from kdengine.errors import TrainingError

__all__ = ["Peers", "told_by_peer"]


def told_by_peer(error: BaseException) -> BaseException:
    """What to say instead of an error of a connection, which closes when another process of the run ends; else the error."""
    if isinstance(error, dist.DistError) or (type(error) is RuntimeError and "gloo" in str(error)):
        return TrainingError("Another process of this run has ended, so this one ends too. Its own output says why.")
    return error


class Peers:
    """What all processes of a run know alike at the same step, and what they give each other outside of training.

    Every process must make the same calls in the same order.

    Attributes:
        rank: of this process, from 0.
        seconds: the time of the first process, by its own clock, as all know it since the last :meth:`agree`; before, 0.
    """

    def __init__(self) -> None:
        self._group: Any = dist.new_group(backend="gloo")
        self._began = time.monotonic()
        self._told: tuple[Tensor, Any] | None = None
        self.rank = dist.get_rank()
        self.seconds = 0.0

    def agree(self, asked: bool) -> bool:
        """Whether any process was asked to stop; all processes return the same.

        What they tell each other travels during the step that follows, so that no step waits for it: a call answers what the
        one before was told.

        Args:
            asked: whether this process was.
        """
        answer = False
        if self._told is not None:
            told, sent = self._told
            sent.wait()
            answer, self.seconds = bool(told[0]), float(told[1])
        clock = time.monotonic() - self._began if self.rank == 0 else 0.0
        telling = torch.tensor([float(asked), clock], dtype=torch.float64)
        self._told = telling, dist.all_reduce(telling, dist.ReduceOp.MAX, group=self._group, async_op=True)
        return answer

    def share(self, value: Any) -> Any:
        """The first process's value, of any type; what the others pass is ignored."""
        values = [value if self.rank == 0 else None]
        dist.broadcast_object_list(values, src=0, group=self._group)
        return values[0]

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes by rank; empty in all but the first."""
        values = [None] * dist.get_world_size() if self.rank == 0 else None
        dist.gather_object(value, values, dst=0, group=self._group)
        return values or []

    def everyone(self, value: Any) -> list[Any]:
        """The values of all processes by rank, in every process."""
        return list(self.share(self.gather(value)))

    def part(self) -> None:
        """Wait until all processes have come this far, or one has ended."""
        with suppress(RuntimeError):  # torch's error of a connection that has closed
            dist.barrier(group=self._group)
