"""The table of a comparison: every method over all trials, beside the plain student, from the run folders alone."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdengine.errors import SettingsError, counted
from kdengine.report.benchmarks import Benchmark, cost_columns, machines
from kdengine.report.cells import row_cells, sheet_cells, signed, teacher_cells
from kdengine.report.columns import gain, other_measures, rank, score_columns
from kdengine.report.differences import common_scoring
from kdengine.report.judging import Judge, Verdict
from kdengine.report.markup import table, tag, text
from kdengine.report.paired import Difference
from kdengine.report.pastrun import FINISHED, PastRun, find_runs
from kdengine.report.table import Table, caption
from kdengine.runs.result_view import teachers_in
from kdengine.storage.names import NOTE, PLAIN
from kdengine.storage.scores import CLASSIFICATION, Measure, Scoring

__all__ = ["Leaderboard", "scores_by_seed"]

GAIN = "gain over plain"
MEANINGLESS = " (!)"
"""Mark of a gain over a plain student that is no baseline."""


@dataclass(frozen=True)
class Leaderboard:
    """Methods by their last score, with what they gain over the plain student in the same trials.

    The keys of a row are named after the measures of the task. Its headline, such as ``top1``, gives ``top1`` and
    ``top1_std`` (mean and standard deviation of the last score over the trials), ``best_top1`` and ``best_top1_std``;
    every other measure but the loss, such as ``top5``, gives its mean. All are in the unit of the measure.

    Attributes:
        rows: one mapping per method, the best first: the scores above, and ``method``, ``trials``, ``gain`` (mean
            difference of the last headline score from the plain student of the same trial, positive where the method is
            better, also where a low score is the better one), ``gain_low`` and ``gain_high`` (95 % interval of that mean
            by Student's t, None for a single trial), ``seconds_per_epoch`` (of the student itself, not of the assistants
            before it in a chain), ``extra_parameters`` (while training), ``epochs`` (of all phases and assistants),
            ``failure``, ``warning`` (why its numbers mean nothing, in a few words).
        teacher: what is known about the teacher, if there is one.
        caption: data, machine and versions.
        scoring: the measures of the task.
        costs: what the network of each method costs, in the first trial that was benchmarked.
        verdict: what is wrong with the comparison.
        students: of several students, label -> the board of that student; empty for one.
        lanes: method -> its runs, in any state; empty for several students, whose boards have them.
    """

    rows: Sequence[Mapping[str, Any]]
    teacher: Mapping[str, Any] | None
    caption: str
    scoring: Scoring = CLASSIFICATION
    costs: Mapping[str, Benchmark] = field(default_factory=dict)
    verdict: Verdict = field(default=Verdict(), repr=False)
    students: Mapping[str, Leaderboard] = field(default_factory=dict, repr=False)
    lanes: Mapping[str, Sequence[PastRun]] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, folders: Sequence[str | Path]) -> Leaderboard:
        """From comparison folders or run folders.

        Raises:
            SettingsError: they hold no run, or runs of different tasks.
        """
        return cls.of_runs(find_runs(folders))

    @classmethod
    def of_comparison(cls, folders: Sequence[str | Path]) -> Leaderboard | None:
        """From the folder of a comparison; None if there are several folders, or if it is another one.

        Raises:
            SettingsError: it holds no run, or runs of different tasks.
        """
        return cls.of(folders) if len(folders) == 1 and (Path(folders[0]) / NOTE).is_file() else None

    @classmethod
    def of_runs(cls, runs: Sequence[PastRun]) -> Leaderboard:
        """From runs that have been read; of lanes of a comparison of several students, a board of all of these.

        Raises:
            SettingsError: they have different tasks.
        """
        if any(run.of_student for run in runs):
            from kdengine.report.family import FamilyBoard  # it is a board itself

            return FamilyBoard.of_students(runs)
        return Leaderboard.of_lanes(runs)

    @staticmethod
    def of_lanes(runs: Sequence[PastRun]) -> Leaderboard:
        """From the runs of one student.

        Raises:
            SettingsError: they have different tasks.
        """
        scoring = common_scoring(runs)
        headline = scoring.headline
        lanes: dict[str, list[PastRun]] = {}
        for run in runs:
            lanes.setdefault(run.method, []).append(run)
        plain = scores_by_seed(lanes.get(PLAIN, ()), headline)
        teacher = next((run.teacher for run in runs if run.teacher), None)
        verdict = Judge(lanes, teacher, headline).verdict()
        rows = [
            {**_row(label, trials, plain, scoring), "warning": verdict.notes.get(label, "")} for label, trials in lanes.items()
        ]
        rows.sort(key=lambda row: rank(headline, row[headline.name]))
        costs = {label: found[0] for label, trials in lanes.items() if (found := _measured(trials))}
        text = " ".join(
            [f"{runs[0].settings.student} on {caption(runs[:1])}", *([machines(list(costs.values()))] if costs else [])]
        )
        return Leaderboard(rows, teacher, text, scoring, costs, verdict, lanes=lanes)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Why its numbers mean nothing, with what to do about it; empty if there is nothing to warn of."""
        return self.verdict.warnings

    @property
    def mark(self) -> str:
        """What follows every gain: nothing, or the mark of gains over a plain student that is no baseline."""
        return MEANINGLESS if self.verdict.no_baseline else ""

    @property
    def leading(self) -> tuple[str, ...]:
        """Titles of the columns before that of the method; there are none."""
        return ()

    @property
    def columns(self) -> tuple[str, ...]:
        """Titles of the columns of :meth:`table`."""
        last, best, *others = score_columns(self.scoring)
        costs = cost_columns(self._batches) if self.costs else ()
        ends = ("s/epoch", "extra parameters", "epochs", *costs, "note")
        return (*self.leading, "method", "trials", last, best, GAIN, *others, *ends)

    @property
    def _batches(self) -> list[int]:
        """All sizes of batches that were benchmarked."""
        return sorted({count for cost in self.costs.values() for count in cost.batches})

    def _with_cost(self, cells: Sequence[str], label: str, role: str = "student") -> tuple[str, ...]:
        """A line with the costs of a method, or with any label of the teacher, before its note."""
        if not self.costs:
            return tuple(cells)
        cost = self.costs.get(label)
        costs = cost.cells(role, self._batches) if cost else ("",) * len(cost_columns(self._batches))
        return (*cells[:-1], *costs, cells[-1])

    def table(self) -> Table:
        """The same as text; what is not known stays empty. Gains over a broken baseline bear a mark, ``(!)``.

        As CSV, spreads and intervals have columns of their own.
        """
        lines = [self._with_cost(row_cells(row, self.scoring, self.mark), row["method"]) for row in self.rows]
        sheet = [self._with_cost(sheet_cells(row, self.scoring), row["method"]) for row in self.rows]
        for place, teacher in enumerate(teachers_in(self.teacher)):
            cells = teacher_cells(teacher, self.scoring, self.verdict.teacher if place == 0 else "")
            measured = next(iter(self.costs), "") if place == 0 else ""  # several teachers are measured together
            line, plain = (self._with_cost(one, measured, "teacher") for one in cells)
            lines.insert(place, line)
            sheet.insert(place, plain)
        return Table(self.caption, self.columns, tuple(lines), Table(self.caption, self.sheet_columns, tuple(sheet)))

    @property
    def sheet_columns(self) -> tuple[str, ...]:
        """Those of its CSV, with a column for every number."""
        method, trials, last, best, gained, *others = self.columns[len(self.leading) :]
        spreads = (last, f"{last} std", best, f"{best} std", gained, "gain low", "gain high")
        return (*self.leading, method, trials, *spreads, *others)

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

    def __repr__(self) -> str:
        headline, first = self.scoring.headline, self.rows[0] if self.rows else {}
        score = first.get(headline.name)
        best = f", best {first['method'][:40]} with {headline.label} {headline.shown(score)}" if score is not None else ""
        gained = f" ({signed(headline, first['gain'])} over plain)" if first.get("gain") is not None else ""
        return f"Leaderboard({len(self.rows)} methods{best}{gained}; print() shows the table)"

    def _repr_html_(self) -> str:
        board = self.table()
        return tag("p", text(board.caption)) + table(board.columns, board.rows)


def scores_by_seed(runs: Sequence[PastRun], headline: Measure) -> dict[int, float]:
    """The last headline score of every finished run that has one, by its seed."""
    scores = {run.settings.seed: run.student.get(headline.name) for run in runs if run.state == FINISHED}
    return {seed: score for seed, score in scores.items() if score is not None}


def _row(label: str, runs: Sequence[PastRun], plain: Mapping[int, float], scoring: Scoring) -> dict[str, Any]:
    """One method over its trials; ``plain`` holds the plain student's last headline score by seed."""
    headline, name = scoring.headline, scoring.headline.name
    done = [run for run in runs if run.state == FINISHED]
    students = [run.student for run in done]
    pairs = [(run.student.get(name), plain.get(run.settings.seed)) for run in done] if label != PLAIN else []
    gained = Difference.of([gain(headline, score, base) for score, base in pairs if score is not None and base is not None])
    return {
        "method": label,
        "trials": len(done),
        **_spread(name, (student.get(name) for student in students)),
        **_spread(f"best_{name}", (student.get(f"best_{name}") for student in students)),
        **{other.name: _mean(_known(student.get(other.name) for student in students)) for other in other_measures(scoring)},
        "gain": gained and gained.mean,
        "gain_low": gained and gained.low,
        "gain_high": gained and gained.high,
        "seconds_per_epoch": _mean([statistics.fmean(times) for run in runs if (times := _seconds(run))]),
        "extra_parameters": students[0]["training_parameters"] - students[0]["parameters"] if students else None,
        "epochs": students[0]["epochs"] if students else None,
        "failure": "; ".join(dict.fromkeys(filter(None, map(_trouble, runs)))),
    }


def _seconds(run: PastRun) -> list[float]:
    """How long each epoch of the student took: those of assistants, which are other networks, tell nothing of its steps."""
    return [row["seconds"] for row in run.student_rows]


def _measured(runs: Sequence[PastRun]) -> list[Benchmark]:
    return [cost for run in runs if (cost := Benchmark.read(run.folder)) is not None]


def _trouble(run: PastRun) -> str:
    """Why a run has no score; nothing for one that has."""
    if run.state == FINISHED:
        return ""
    return run.failure or f"not finished: {counted(len(run.rows), 'epoch')} done"


def _spread(name: str, scores: Iterable[float | None]) -> dict[str, float | None]:
    values = _known(scores)
    return {name: _mean(values), f"{name}_std": statistics.stdev(values) if len(values) > 1 else None}


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None
