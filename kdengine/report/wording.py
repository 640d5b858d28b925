"""Words for measures, gains and lists of names, as sentences need them."""

from __future__ import annotations

from collections.abc import Sequence

from kdengine.report.columns import decimals
from kdengine.report.paired import Difference
from kdengine.storage.scores import Measure

__all__ = ["amount", "compared", "evidence", "listed", "signed_number", "times"]

MOST = 4
"""Names that a sentence lists; of more, it says how many there are."""
MINUS = "\N{MINUS SIGN}"


def amount(measure: Measure, value: float) -> str:
    """The size of a difference: ``2.34 points``, ``0.0123``."""
    unit = "points" if measure.unit == "%" else measure.unit
    return f"{abs(value):.{decimals(measure)}f} {unit}".strip()


def signed_number(measure: Measure, value: float) -> str:
    """A difference with its sign, and no unit: ``+2.34``."""
    return f"{value:+.{decimals(measure)}f}".replace("-", MINUS)


def compared(measure: Measure, gain: float) -> str:
    """How a score compares with that of the plain student: ``2.34 points higher than the plain student's``."""
    if float(f"{gain:.{decimals(measure)}f}") == 0:
        return "equal to the plain student's"
    word = "higher" if (gain > 0) == measure.higher_is_better else "lower"
    return f"{amount(measure, gain)} {word} than the plain student's"


def evidence(measure: Measure, gain: Difference) -> str:
    """``95 % interval of the gain +1.20 to +3.48, 3 trials``; for one trial, ``one trial``."""
    if gain.low is None or gain.high is None:
        return "one trial"
    ends = f"{signed_number(measure, gain.low)} to {signed_number(measure, gain.high)}"
    return f"95 % interval of the gain {ends}, {gain.trials} trials"


def listed(names: Sequence[str]) -> str:
    """``st``, ``st and at``, ``st, at and 7 others``."""
    shown = list(names) if len(names) <= MOST else [*names[: MOST - 1], f"{len(names) - MOST + 1} others"]
    return " and ".join(filter(None, (", ".join(shown[:-1]), shown[-1])))


def times(ratio: float) -> str:
    """How long something takes: ``1.25 times as long as``; within 5 percent, ``about as long as``."""
    return "about as long as" if 0.95 <= round(ratio, 2) <= 1.05 else f"{ratio:.2f} times as long as"
