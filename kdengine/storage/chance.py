"""What guessing reaches, and how far a score can be trusted that was measured on few images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from kdengine.storage.scores import Measure

__all__ = ["Chance", "deviation"]

SIGNIFICANT = 3.0
"""Standard deviations by which a score must beat guessing; a guesser does that about once in a thousand runs."""
ODDS = 1.5
"""With many test images, hardly anything is significant enough: the odds of being right must also beat guessing by this."""


@dataclass(frozen=True)
class Chance:
    """What a network reaches that ignores its input.

    Attributes:
        score: the headline on the test images.
        loss: the task loss.
    """

    score: float
    loss: float

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any] | None) -> Self | None:
        """Create from plain data; None if that is not what it holds."""
        if not isinstance(stored, Mapping):
            return None
        score, loss = stored.get("score"), stored.get("loss")
        return cls(score, loss) if isinstance(score, int | float) and isinstance(loss, int | float) else None

    def to_dict(self) -> dict[str, float]:
        """Convert to plain data, for ``manifest.json``."""
        return asdict(self)

    def is_near(self, score: float, measure: Measure, images: int | None) -> bool:
        """Whether a headline score is not clearly better than guessing.

        Args:
            score: the score.
            measure: the headline.
            images: number of test images, if known.
        """
        if measure.unit != "%":
            return not measure.better(score, self.score)
        sign = 1 if measure.higher_is_better else -1
        guessed, right = (value if sign == 1 else 100 - value for value in (self.score, score))
        limit = max(guessed + SIGNIFICANT * deviation(measure, self.score, images), _with_odds(guessed, ODDS))
        return right <= limit

    def lead(self, score: float, measure: Measure) -> float:
        """How much better than guessing a score is; negative if it is worse."""
        return score - self.score if measure.higher_is_better else self.score - score


def deviation(measure: Measure, score: float, images: int | None) -> float:
    """Standard deviation of a percentage of the test images, that of a binomial share; 0 for other measures.

    Args:
        measure: what the score is.
        score: the score.
        images: number of test images; if unknown, the deviation is taken to be 0.
    """
    if measure.unit != "%" or not images:
        return 0.0
    return math.sqrt(max(score * (100 - score), 0.0) / images)


def _with_odds(share: float, factor: float) -> float:
    """The percentage whose odds are ``factor`` times those of ``share``."""
    return 100 * factor * share / (100 + (factor - 1) * share)
