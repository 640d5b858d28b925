"""What runs in the processes of Ray: a unit, handed to a worker that stays for the next one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kdengine import Unit, Worker

__all__ = ["carry"]


@dataclass
class _Kept:
    """The worker beside this process of Ray, and what it was started with."""

    worker: Worker | None = None
    key: tuple[Any, ...] = ()

    def fit(self, threads: int) -> Worker:
        """A worker with these threads and with the GPUs that Ray gives to the task."""
        key = (threads, os.environ.get("CUDA_VISIBLE_DEVICES"))
        if self.worker is None or key != self.key:
            if self.worker is not None:
                self.worker.close()
            self.worker, self.key = Worker(threads=threads), key
        return self.worker


_kept = _Kept()


def carry(unit: Mapping[str, Any], threads: int) -> dict[str, Any]:
    """Carry out a unit, given and returned as plain data; if the task is cancelled, the unit saves and stops first."""
    return vars(_kept.fit(threads).run(Unit(**unit)))
