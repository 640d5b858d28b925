"""The table of a comparison: every method over all trials, beside the plain student, from the run folders alone."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdengine.errors import SettingsError
from kdengine.report.pastrun import FINISHED, PastRun, find_runs
from kdengine.report.table import Table, caption
from kdengine.storage.names import PLAIN

__all__ = ["Leaderboard"]

CONFIDENCE = 0.95
COLUMNS = (
    "method",
    "trials",
    "last top-1 %",
    "best top-1 %",
    "gain over plain",
    "top-5 %",
    "s/epoch",
    "extra parameters",
    "epochs",
    "note",
)


@dataclass(frozen=True)
class Leaderboard:
    """Methods by their last accuracy, with what they gain over the plain student in the same trials.

    Attributes:
        rows: one mapping a method: ``method``, ``trials``, ``top1`` and ``top1_std`` (mean and standard deviation of the
            last top-1 over trials, in percent), the same of ``best_top1``, ``top5``, ``gain`` (mean difference of the
            last top-1 to the plain student of the same trial), ``gain_low`` and ``gain_high`` (95 % interval of
            that mean by Student's t, None for a single trial), ``seconds_per_epoch``, ``extra_parameters`` (while
            training), ``epochs`` (of all phases), ``failure``.
        teacher: what is known of the teacher, if there is one.
        caption: data, machine and versions.
    """

    rows: Sequence[Mapping[str, Any]]
    teacher: Mapping[str, Any] | None
    caption: str

    @classmethod
    def of(cls, places: Sequence[str | Path]) -> Leaderboard:
        """From comparison folders or run folders.

        Raises:
            SettingsError: there is no run in them.
        """
        runs = find_runs(places)
        lanes: dict[str, list[PastRun]] = {}
        for run in runs:
            lanes.setdefault(run.method, []).append(run)
        plain = {run.settings.seed: run.student["top1"] for run in lanes.get(PLAIN, ()) if run.state == FINISHED}
        rows = [_row(label, found, plain) for label, found in lanes.items()]
        rows.sort(key=lambda row: (row["top1"] is None, -(row["top1"] or 0.0)))
        teachers = [run.teacher for run in runs if run.teacher]
        return cls(rows, teachers[0] if teachers else None, f"{runs[0].settings.student} on {caption(runs[:1])}")

    def table(self) -> Table:
        """The same as text; what is not known stays empty."""
        lines = [tuple(_cells(row)) for row in self.rows]
        if self.teacher is not None:
            last, best, top5 = (_number(self.teacher.get(name)) for name in ("top1", "best_top1", "top5"))
            lines.insert(0, (f"teacher {self.teacher['name']}", "", last, best, "", top5, *("",) * 4))
        return Table(self.caption, COLUMNS, tuple(lines))

    def to_pandas(self) -> Any:
        """The rows as a pandas DataFrame.

        Raises:
            SettingsError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise SettingsError("to_pandas() needs pandas: pip install pandas.") from error
        return pandas.DataFrame(list(self.rows))

    def __str__(self) -> str:
        return self.table().to_markdown()


def _row(label: str, runs: Sequence[PastRun], plain: Mapping[int, float]) -> dict[str, Any]:
    """One method over its trials; ``plain`` holds the plain student's accuracy by seed."""
    done = [run for run in runs if run.state == FINISHED]
    students = [run.student for run in done]
    pairs = [(run.student["top1"], plain[run.settings.seed]) for run in done if run.settings.seed in plain]
    gains = [ours - theirs for ours, theirs in pairs] if label != PLAIN else []
    low, high = interval(gains)
    return {
        "method": label,
        "trials": len(done),
        **_spread("top1", [student["top1"] for student in students]),
        **_spread("best_top1", [student["best_top1"] for student in students]),
        "top5": _mean([student["top5"] for student in students]),
        "gain": _mean(gains),
        "gain_low": low,
        "gain_high": high,
        "seconds_per_epoch": _mean([sum(row["seconds"] for row in run.rows) / len(run.rows) for run in runs if run.rows]),
        "extra_parameters": students[0]["training_parameters"] - students[0]["parameters"] if students else None,
        "epochs": students[0]["epochs"] if students else None,
        "failure": "; ".join(dict.fromkeys(filter(None, map(_trouble, runs)))),
    }


def _trouble(run: PastRun) -> str:
    """Why a run has no accuracy; nothing for one that has."""
    if run.state == FINISHED:
        return ""
    return run.failure or f"not finished: {len(run.rows)} epochs are done"


def interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float | None, float | None]:
    """Ends of the interval of a mean by Student's t, mean +- t s / sqrt(n); None for fewer than two values."""
    from scipy.stats import t

    if len(values) < 2:
        return None, None
    half = float(t.ppf((1 + confidence) / 2, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    mean = statistics.fmean(values)
    return mean - half, mean + half


def _spread(name: str, values: Sequence[float]) -> dict[str, float | None]:
    return {name: _mean(values), f"{name}_std": statistics.stdev(values) if len(values) > 1 else None}


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _cells(row: Mapping[str, Any]) -> list[str]:
    gain = "" if row["gain"] is None else f"{row['gain']:+.2f}"
    if row["gain_low"] is not None:
        gain += f" [{row['gain_low']:+.2f}, {row['gain_high']:+.2f}]"
    elif gain:
        gain += " (one trial: no interval)"
    extra = "" if row["extra_parameters"] is None else f"{row['extra_parameters']:,}"
    return [
        row["method"],
        str(row["trials"]),
        _number(row["top1"], row["top1_std"]),
        _number(row["best_top1"], row["best_top1_std"]),
        gain,
        _number(row["top5"]),
        "" if row["seconds_per_epoch"] is None else f"{row['seconds_per_epoch']:.1f}",
        extra,
        "" if row["epochs"] is None else str(row["epochs"]),
        row["failure"],
    ]


def _number(value: float | None, spread: float | None = None) -> str:
    if value is None:
        return ""
    return f"{value:.2f}" if spread is None else f"{value:.2f} ± {spread:.2f}"
