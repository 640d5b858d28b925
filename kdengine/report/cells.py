"""The cells of a leaderboard: a row as people read it, and as programs do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdengine.report.columns import decimals, number, other_measures
from kdengine.storage.scores import Measure, Scoring

__all__ = ["row_cells", "sheet_cells", "signed", "teacher_cells"]


def teacher_cells(teacher: Mapping[str, Any], scoring: Scoring, note: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The row of a teacher, for people and for programs.

    Args:
        teacher: what is known about it.
        scoring: the measures of the task.
        note: what is wrong with it.
    """
    name, headline = f"teacher {teacher['name']}", scoring.headline
    last, best = (number(headline, teacher.get(f"{prefix}{headline.name}")) for prefix in ("", "best_"))
    others = [number(measure, teacher.get(measure.name)) for measure in other_measures(scoring)]
    end = (*others, *("",) * 3, note)
    return (name, "", last, best, "", *end), (name, "", last, "", best, "", *("",) * 3, *end)


def row_cells(row: Mapping[str, Any], scoring: Scoring, mark: str) -> list[str]:
    """A row as people read it; ``mark`` follows the gain."""
    headline = scoring.headline
    gained = signed(headline, row["gain"])
    if row["gain_low"] is not None:
        gained += f" [{signed(headline, row['gain_low'])}, {signed(headline, row['gain_high'])}]"
    elif gained:
        gained += " (one trial: no interval)"
    return [
        row["method"],
        str(row["trials"]),
        *(_with_spread(headline, row, name) for name in (headline.name, f"best_{headline.name}")),
        gained + mark if gained else "",
        *_last_cells(row, scoring, grouped=True),
    ]


def sheet_cells(row: Mapping[str, Any], scoring: Scoring) -> list[str]:
    """A row for CSV: one plain number per cell."""
    headline, name = scoring.headline, scoring.headline.name
    scores = (row[key] for key in (name, f"{name}_std", f"best_{name}", f"best_{name}_std"))
    gains = (row[key] for key in ("gain", "gain_low", "gain_high"))
    return [
        row["method"],
        str(row["trials"]),
        *(number(headline, score) for score in scores),
        *(signed(headline, gained) for gained in gains),
        *_last_cells(row, scoring, grouped=False),
    ]


def _last_cells(row: Mapping[str, Any], scoring: Scoring, grouped: bool) -> list[str]:
    """The cells after the gain."""
    extra = row["extra_parameters"]
    return [
        *(number(measure, row[measure.name]) for measure in other_measures(scoring)),
        "" if row["seconds_per_epoch"] is None else f"{row['seconds_per_epoch']:.1f}",
        "" if extra is None else f"{extra:,}" if grouped else str(extra),
        "" if row["epochs"] is None else str(row["epochs"]),
        "; ".join(filter(None, (row["failure"], row["warning"]))),
    ]


def _with_spread(measure: Measure, row: Mapping[str, Any], name: str) -> str:
    mean, spread = number(measure, row[name]), number(measure, row[f"{name}_std"])
    return f"{mean} ± {spread}" if spread else mean


def signed(measure: Measure, value: float | None) -> str:
    """A difference with its sign; nothing where there is none."""
    return "" if value is None else f"{value:+.{decimals(measure)}f}"
