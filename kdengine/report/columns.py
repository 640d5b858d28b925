"""How tables, pages and plots show the measures of a task: titles of columns, digits, and which value is better."""

from __future__ import annotations

from kdengine.storage.scores import Measure, Scoring

__all__ = [
    "axis_label",
    "decimals",
    "gain",
    "in_words",
    "number",
    "other_measures",
    "rank",
    "score_columns",
    "with_low_best",
]

CRITERION = "loss"
"""The mean task loss on the test images is in ``metrics.jsonl``, but tables compare networks by their scores."""


def other_measures(scoring: Scoring) -> tuple[Measure, ...]:
    """What tables show besides the headline: every other measure but the loss."""
    return tuple(measure for measure in scoring.measures[1:] if measure.name != CRITERION)


def score_columns(scoring: Scoring) -> tuple[str, ...]:
    """``last top-1 %``, ``best top-1 %``, ``top-5 %``: the headline twice, then the other measures."""
    title = scoring.headline.title
    return (f"last {title}", f"best {title}", *(measure.title for measure in other_measures(scoring)))


def with_low_best(scoring: Scoring) -> tuple[str, ...]:
    """The columns of scores whose lowest value is the best one."""
    measures = (scoring.headline, scoring.headline, *other_measures(scoring))
    titles = zip(score_columns(scoring), measures, strict=True)
    return tuple(title for title, measure in titles if not measure.higher_is_better)


def decimals(measure: Measure) -> int:
    """Digits after the point: two for a measure with a unit, four for one without, as :meth:`Measure.shown` has them."""
    return 2 if measure.unit else 4


def number(measure: Measure, value: float | None, nothing: str = "") -> str:
    """A value without its unit, for a cell: ``98.61``; ``nothing`` where there is no value."""
    return nothing if value is None else f"{value:.{decimals(measure)}f}"


def in_words(measure: Measure) -> str:
    """For a sentence: ``top-1 in percent``."""
    unit = "percent" if measure.unit == "%" else measure.unit
    return f"{measure.label} in {unit}" if unit else measure.label


def axis_label(measure: Measure) -> str:
    """For an axis or a legend: ``top-1, %``."""
    return f"{measure.label}, {measure.unit}" if measure.unit else measure.label


def gain(measure: Measure, value: float, baseline: float) -> float:
    """How much better a value is than a baseline: positive where it is better, whichever direction that is."""
    return value - baseline if measure.higher_is_better else baseline - value


def rank(measure: Measure, value: float | None) -> tuple[bool, float]:
    """Sorts the best value first, and what was not measured last."""
    if value is None:
        return True, 0.0
    return False, -value if measure.higher_is_better else value
