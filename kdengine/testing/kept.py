"""The check that what a method keeps between steps is the same in all processes that train together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from kdengine.data.batches import Batch
from kdengine.methods.processes import Processes
from kdengine.testing.bench import Bench
from kdengine.testing.processes import in_processes
from kdengine.training.statistics import kept_by

__all__ = ["KeptChecks"]

PROCESSES = 2


class KeptChecks(ABC):
    """The part of the contract about several processes; :class:`DistillerContract` has all."""

    @abstractmethod
    def bench(self, pair: tuple[nn.Module | None, nn.Module] | None = None, **settings: Any) -> Bench:
        """A bench with one lane that uses the method."""

    def test_processes_keep_the_same(self) -> None:
        """Of processes with different images, all have the same in the method's buffers, apart from those of normalisations."""
        if not kept_by(self.bench().lane.module):
            return
        benches = [self.bench() for _ in range(PROCESSES)]

        def forward(rank: int, processes: Processes) -> None:
            bench = benches[rank]
            bench.lane.module.processes = processes
            bench.terms(_share(bench.batch(4), rank))

        for lanes in zip(*(bench.phases() for bench in benches), strict=True):
            in_processes(PROCESSES, forward)
            first, *others = [dict(kept_by(lane.module)) for lane in lanes]
            differing = [name for name in first if not all(torch.equal(first[name], other[name]) for other in others)]
            assert not differing, (
                f"in several processes, each would keep {differing} of its own images alone: "
                "update it with step.processes.gathered(rows) or step.processes.stacked(value)"
            )


def _share(batch: Batch, rank: int) -> Batch:
    """Every second image."""
    mine = slice(rank, None, PROCESSES)
    index = None if batch.index is None else batch.index[mine]
    return replace(batch, x=batch.x[mine], y=batch.y[mine], index=index, views=tuple(view[mine] for view in batch.views))
