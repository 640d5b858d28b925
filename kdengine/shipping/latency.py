"""How long calls take: several of them measured in turn, so that a machine that slows down slows them all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

__all__ = ["ROUNDS", "Latency", "measured"]

ROUNDS = 11
WARM_UP = 3
"""Calls before anything is measured: the first ones choose kernels and fill caches."""
ROUND_SECONDS = 0.1
"""How long a round of one call should take; short calls are repeated within it."""
MOST = 1000


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one call: the median of the rounds, and their quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Latency:
        """Summarise the seconds of a call in each round, two or more."""
        low, median, high = (1000 * value for value in statistics.quantiles(seconds, n=4, method="inclusive"))
        return cls(median, low, high)

    def to_dict(self) -> dict[str, float]:
        """As plain data, to a tenth of a microsecond."""
        return {name: round(value, 4) for name, value in asdict(self).items()}


def measured(
    calls: Sequence[Callable[[], object]],
    wait: Callable[[], object] = lambda: None,
    rounds: int = ROUNDS,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Latency]:
    """Measure calls in turn, round by round, after a warm-up.

    Args:
        calls: what to measure.
        wait: returns when the device has done what was called.
        rounds: number of rounds, two or more.
        clock: seconds from any start.
    """
    repeats = [_repeats(call, wait, clock) for call in calls]
    taken: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, count, seconds in zip(calls, repeats, taken, strict=True):
            seconds.append(_timed(call, count, wait, clock))
    return [Latency.of(seconds) for seconds in taken]


def _repeats(call: Callable[[], object], wait: Callable[[], object], clock: Callable[[], float]) -> int:
    """Warm up, and choose how often a round repeats the call."""
    _timed(call, WARM_UP, wait, clock)
    once = _timed(call, 1, wait, clock)
    return max(1, min(MOST, round(ROUND_SECONDS / once))) if once > 0 else MOST


def _timed(call: Callable[[], object], count: int, wait: Callable[[], object], clock: Callable[[], float]) -> float:
    """Seconds of one call, averaged over ``count``."""
    wait()
    start = clock()
    for _ in range(count):
        call()
    wait()
    return (clock() - start) / count
