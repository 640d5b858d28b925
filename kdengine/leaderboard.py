"""The table of a comparison: every method over all trials, beside the plain student, from the run folders alone."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdengine.errors import SettingsError
from kdengine.report import Table
from kdengine.runfolder import RunFolder

__all__ = ["Leaderboard", "run_folders"]

PLAIN = "plain"
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


def run_folders(place: str | Path) -> list[RunFolder]:
    """The run folder itself, or all run folders below, in the order of their trials."""
    path = Path(place)
    if (path / "run.toml").is_file():
        return [RunFolder(path)]
    found = [file.parent for file in path.glob("*/*/run.toml")]
    return [RunFolder(folder) for folder in sorted(found, key=lambda folder: (len(folder.parent.name), str(folder)))]


@dataclass(frozen=True)
class Leaderboard:
    """Methods by their last accuracy, with what they gain over the plain student in the same trials.

    Attributes:
        rows: one mapping a method: ``method``, ``trials``, ``top1`` and ``top1_std`` (mean and standard deviation of the
            last top-1 over trials, in percent), the same of ``best_top1``, ``top5``, ``gain`` (mean difference of the
            last top-1 to the plain student of the same trial), ``gain_low`` and ``gain_high`` (95 % interval of
            that mean by Student's t, None for a single trial), ``seconds_per_epoch``, ``extra_parameters`` (while
            training), ``epochs`` (of all stages), ``failure``.
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
        folders = [folder for place in places for folder in run_folders(place)]
        if not folders:
            raise SettingsError(f"There is no run in {', '.join(map(str, places))}.")
        lanes: dict[str, list[_Lane]] = {}
        for folder in folders:
            lane = _Lane.of(folder)
            lanes.setdefault(lane.label, []).append(lane)
        plain = {lane.seed: lane for lane in lanes.get(PLAIN, ()) if lane.top1 is not None}
        rows = [_row(label, found, plain) for label, found in lanes.items()]
        rows.sort(key=lambda row: (row["top1"] is None, -(row["top1"] or 0.0)))
        teachers = [lane.result["teacher"] for found in lanes.values() for lane in found if lane.result.get("teacher")]
        return cls(rows, teachers[0] if teachers else None, _caption(folders))

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


@dataclass(frozen=True)
class _Lane:
    """One run of a comparison, as far as it came."""

    label: str
    seed: int
    top1: float | None
    result: Mapping[str, Any]
    epochs: int
    seconds: float
    failure: str

    @classmethod
    def of(cls, folder: RunFolder) -> _Lane:
        result, rows = folder.result() or {}, folder.metrics()
        label = result.get("method") or (rows[0]["lane"] if rows else folder.path.name)
        failure = folder.failure() or ("" if result else f"not finished: {len(rows)} epochs are done")
        top1 = result["student"]["top1"] if result else None
        seconds = sum(row["seconds"] for row in rows)
        return cls(label, folder.settings().seed, top1, result, len(rows), seconds, failure)


def _row(label: str, lanes: Sequence[_Lane], plain: Mapping[int, _Lane]) -> dict[str, Any]:
    done = [lane for lane in lanes if lane.top1 is not None]
    students = [lane.result["student"] for lane in done]
    gains = [lane.top1 - plain[lane.seed].top1 for lane in done if label != PLAIN and lane.seed in plain]  # type: ignore[operator]
    low, high = interval(gains)
    failures = [lane.failure for lane in lanes if lane.failure]
    return {
        "method": label,
        "trials": len(done),
        **_spread("top1", [student["top1"] for student in students]),
        **_spread("best_top1", [student["best_top1"] for student in students]),
        "top5": _mean([student["top5"] for student in students]),
        "gain": _mean(gains),
        "gain_low": low,
        "gain_high": high,
        "seconds_per_epoch": _mean([lane.seconds / lane.epochs for lane in lanes if lane.epochs]),
        "extra_parameters": students[0]["training_parameters"] - students[0]["parameters"] if students else None,
        "epochs": students[0]["epochs"] if students else None,
        "failure": "; ".join(dict.fromkeys(failures)),
    }


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


def _caption(folders: Sequence[RunFolder]) -> str:
    """Data, machine and versions, as the first run's folder has them."""
    manifest = folders[0].manifest()
    data, versions = manifest["data"], manifest["versions"]
    return (
        f"{folders[0].settings().student} on {data['name']}: {data.get('train_images', '?')} training and "
        f"{data.get('test_images', '?')} test images. {manifest['device_name']}, {manifest['threads']} threads, "
        f"{manifest['precision']}; torch {versions['torch']}, timm {versions['timm']}, kdengine {versions['kdengine']}."
    )
