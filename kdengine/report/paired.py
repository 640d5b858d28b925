"""Paired statistics: what a method gains over another one, from the trials that both have finished."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kdengine.report.columns import gain
from kdengine.storage.scores import Measure

__all__ = ["CONFIDENCE", "Difference", "interval"]

CONFIDENCE = 0.95


def interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float | None, float | None]:
    """Ends of the confidence interval of a mean by Student's t, mean +- t s / sqrt(n); None for fewer than two values."""
    from scipy.stats import t

    if len(values) < 2:
        return None, None
    half = float(t.ppf((1 + confidence) / 2, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    mean = statistics.fmean(values)
    return mean - half, mean + half


@dataclass(frozen=True)
class Difference:
    """How much better one lane is than another, positive where it is better, whichever direction that is.

    Attributes:
        mean: over the trials that both have finished.
        low: lower end of its 95 % interval; None for one trial.
        high: upper end.
        trials: how many there are.
    """

    mean: float
    low: float | None
    high: float | None
    trials: int

    @classmethod
    def of(cls, gains: Sequence[float]) -> Difference | None:
        """From the gain of every trial; None if there is none."""
        return cls(statistics.fmean(gains), *interval(gains), len(gains)) if gains else None

    @classmethod
    def between(cls, measure: Measure, scores: Mapping[int, float], others: Mapping[int, float]) -> Difference | None:
        """From scores by seed; None if the lanes have no trial in common."""
        return cls.of([gain(measure, score, others[seed]) for seed, score in scores.items() if seed in others])

    @property
    def is_gain(self) -> bool:
        """Whether the whole interval lies above zero."""
        return self.low is not None and self.low > 0

    @property
    def is_loss(self) -> bool:
        """Whether the whole interval lies below zero."""
        return self.high is not None and self.high < 0
