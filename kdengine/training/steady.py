"""Reading on where processes have to stop together, though not all of them are through."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kdengine.data.batches import Batch, Batches
from kdengine.errors import DataError
from kdengine.training.signals import Stop

__all__ = ["check_complete", "steady"]


def steady(batches: Batches, stop: Stop) -> Batches:
    """Batches that go on where a signal that asked this process to stop has also ended the processes that read ahead.

    Of several processes, this one still has to take the step after which all stop.
    """
    return _Steady(batches, stop) if stop.is_shared else batches


@dataclass(frozen=True)
class _Steady:
    batches: Batches
    stop: Stop

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch; those who read ahead are replaced once."""
        try:
            for batch in self.batches.epoch(number, start):
                yield batch
                start += 1
            return
        except DataError:
            if not self.stop.asked:
                raise
        yield from self.batches.epoch(number, start)


def check_complete(done: int, batches: Batches, stop: Stop) -> None:
    """Refuse an epoch that was too short, of several processes, before this one waits for the others forever.

    Args:
        done: steps taken in the epoch.
        batches: what they were taken from.
        stop: knows whether there are other processes.

    Raises:
        DataError: there were fewer batches than announced.
    """
    if stop.is_shared and done != len(batches):
        raise DataError(
            f"The training data gave this process {done} batches, but announced {len(batches)}, and the other processes take "
            "every step together with this one. Give every process as many batches as its loader's length says."
        )
