"""The launcher for one machine: a process for each GPU, or several that share its CPUs."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Sequence

from pydantic import Field

from kdengine.errors import LaunchError
from kdengine.launchers.fitness import unfit
from kdengine.launchers.launcher import Launcher
from kdengine.launchers.unit import Demand, Outcome, Resources, Unit
from kdengine.launchers.worker import Worker
from kdengine.machine import cores

__all__ = ["LocalLauncher"]

TICK = 0.05
"""Seconds between two looks at all workers."""


class LocalLauncher(Launcher):
    """Processes on this machine: one for each GPU, or several that share its CPUs."""

    name = "local"

    class Options(Launcher.Options):
        """Options of the launcher."""

        workers: int | None = Field(None, ge=1)
        """Processes at the same time. Left out, one for each GPU; on the CPU, one for each core."""
        gpus_per_worker: int = Field(1, ge=1)
        """GPUs that each process sees; lanes use the first of them."""

    def __init__(self, **options: object) -> None:
        super().__init__(**options)
        self._workers: list[Worker] = []
        self._waiting: deque[Unit] = deque()
        self._ended: list[Outcome] = []
        self._gpus = 0

    @property
    def _count(self) -> int:
        if self.options.workers is not None:
            return int(self.options.workers)
        if self._gpus:
            return max(1, self._gpus // int(self.options.gpus_per_worker))
        return max(1, cores() // (self.threads or 1))

    @property
    def _threads(self) -> int:
        return self.threads or max(1, cores() // self._count)

    def open(self, demand: Demand) -> None:
        """Choose the GPUs and threads of each worker.

        Raises:
            LaunchError: there are fewer GPUs than the options ask for, or this machine is not fit.
        """
        faults = unfit(demand.expected)
        if faults:
            raise demand.refusal("this machine", faults)
        visible = _visible_gpus() if demand.device == "cuda" else []
        self._gpus, each = len(visible), int(self.options.gpus_per_worker)
        if visible and self._count * each > len(visible) and each > 1:
            raise LaunchError(
                f"{self._count} workers with {each} GPUs each need {self._count * each} GPUs, but this machine has "
                f"{len(visible)}. Give fewer: -o local.workers={max(1, len(visible) // each)}."
            )
        for number in range(self._count):
            # more workers than GPUs share them in turn
            own = [visible[(number * each + place) % len(visible)] for place in range(each)] if visible else []
            self._workers.append(Worker({"CUDA_VISIBLE_DEVICES": ",".join(own)} if own else {}, self._threads))

    def at_once(self, lanes: int) -> int:
        """The number of workers."""
        return self._count

    def resources(self, unit: Unit) -> Resources:
        """The same for each unit."""
        shared = max(1.0, self._count / self._gpus) if self._gpus else 1.0
        gpus = self.options.gpus_per_worker / shared if self._gpus else 0.0
        return Resources(self._threads, gpus, unit.memory)

    def start(self, unit: Unit) -> None:
        """Put the unit at the end of the queue."""
        self._waiting.append(unit)
        self._hand_out()

    def wait(self, seconds: float) -> Sequence[Outcome]:
        """Look at all workers until one has ended."""
        deadline = time.monotonic() + seconds
        while True:
            outcomes = [outcome for worker in self._workers if (outcome := worker.poll()) is not None]
            self._hand_out()
            ended, self._ended = [*self._ended, *outcomes], []
            if ended or time.monotonic() >= deadline:
                return ended
            time.sleep(TICK)

    def cancel(self) -> None:
        """Clear the queue and stop the units in progress."""
        self._ended += [Outcome(unit.name, "stopped", "it had not begun") for unit in self._waiting]
        self._waiting.clear()
        for worker in self._workers:
            worker.stop()

    def close(self) -> None:
        """End all processes."""
        self._waiting.clear()
        while self._workers:
            self._workers.pop().close()

    def _hand_out(self) -> None:
        for worker in self._workers:
            if self._waiting and worker.unit is None:
                worker.begin(self._waiting.popleft())


def _visible_gpus() -> list[str]:
    """The GPUs that this process sees, as ``CUDA_VISIBLE_DEVICES`` names them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    listed = [name.strip() for name in named.split(",")] if named else []
    return (listed or list(map(str, range(torch.cuda.device_count()))))[: torch.cuda.device_count()]
