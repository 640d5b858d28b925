"""The table of a comparison of several students: every method for each of them, with what each student costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdengine.report.benchmarks import Benchmark, machines
from kdengine.report.cells import row_cells, sheet_cells, signed, teacher_cells
from kdengine.report.differences import common_scoring
from kdengine.report.leaderboard import Leaderboard
from kdengine.report.pastrun import FINISHED, PastRun
from kdengine.report.table import Table, caption
from kdengine.runs.result_view import teachers_in

__all__ = ["FamilyBoard"]

SIZES = ("parameters", "flops", "latency_ms")
"""What a row says about the network that a lane deploys."""
SIZE_COLUMNS = ("parameters", "MFLOPs", "ms, batch 1")


@dataclass(frozen=True)
class FamilyBoard(Leaderboard):
    """The boards of several students of one teacher as one; the smallest student is first.

    An interrupted comparison may have trained one of them so far.

    Rows are those of each student's own board, in ``students``, with ``student`` (its label) and ``network`` (its name), and
    with ``parameters``, ``flops`` and ``latency_ms`` (of one image, in milliseconds) of the network that the lane deploys; what
    is not known is None. A gain is one over the plain lane of the same student. ``costs`` is empty.
    """

    @classmethod
    def of_students(cls, runs: Sequence[PastRun]) -> FamilyBoard:
        """From the runs of a comparison of several students.

        Raises:
            SettingsError: they have different tasks.
        """
        groups: dict[str, list[PastRun]] = {}
        for run in runs:
            groups.setdefault(run.of_student, []).append(run)
        sizes = {label: _Sizes(group) for label, group in groups.items()}
        labels = sorted(groups, key=lambda label: (sizes[label].plain["parameters"] or math.inf, label))
        boards = {label: Leaderboard.of_lanes(groups[label]) for label in labels}
        rows = [
            {"student": label, "network": groups[label][0].settings.student, **row, **sizes[label].of(row["method"])}
            for label in labels
            for row in boards[label].rows
        ]
        teacher = next((board.teacher for board in boards.values() if board.teacher), None)
        measured = [cost for one in sizes.values() for cost in one.costs.values()]
        latency = next((found for cost in measured if (found := _latency(cost, "teacher")) is not None), None)
        teacher = {**teacher, "latency_ms": latency} if teacher else None
        text = " ".join([f"{', '.join(labels)} on {caption(runs[:1])}", *([machines(measured)] if measured else [])])
        return cls(rows, teacher, text, common_scoring(runs), students=boards)

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings of every student's board, with its label; what all of them say is said once."""
        every = {label: board.warnings for label, board in self.students.items()}
        shared = [one for one in next(iter(every.values())) if all(one in warnings for warnings in every.values())]
        own = [f"{label}: {one}" for label, warnings in every.items() for one in warnings if one not in shared]
        return (*shared, *own)

    @property
    def leading(self) -> tuple[str, ...]:
        """Titles of the columns before that of the method: the student, and what it costs."""
        return ("student", *SIZE_COLUMNS)

    def table(self) -> Table:
        """The same as text: the teachers, then every student with its methods; what is not known stays empty."""
        lines, sheet = [], []
        for place, teacher in enumerate(teachers_in(self.teacher)):
            shown, plain = teacher_cells(teacher, self.scoring, self._teacher_note if place == 0 else "")
            lines.append(_line(shown[0], ("", *shown[1:]), teacher, grouped=True))
            sheet.append(_line(plain[0], ("", *plain[1:]), teacher, grouped=False))
        for row in self.rows:
            board = self.students[row["student"]]
            lines.append(_line(row["student"], row_cells(row, self.scoring, board.mark), row, grouped=True))
            sheet.append(_line(row["student"], sheet_cells(row, self.scoring), row, grouped=False))
        return Table(self.caption, self.columns, tuple(lines), Table(self.caption, self.sheet_columns, tuple(sheet)))

    @property
    def _teacher_note(self) -> str:
        """What is wrong with the teacher; what holds for some students only, with their labels."""
        whose: dict[str, list[str]] = {}
        for label, board in self.students.items():
            for part in filter(None, board.verdict.teacher.split("; ")):
                whose.setdefault(part, []).append(label)
        everyone = list(self.students)
        return "; ".join(part if labels == everyone else f"{part} ({', '.join(labels)})" for part, labels in whose.items())

    def __repr__(self) -> str:
        best = ", ".join(f"{label}: {_best(board)}" for label, board in self.students.items())
        return f"Leaderboard({len(self.students)} students; {best}; print() shows the table)"


class _Sizes:
    """What the networks of one student's lanes are and cost.

    Args:
        runs: its lanes, of all trials.
    """

    def __init__(self, runs: Sequence[PastRun]) -> None:
        self.runs = runs
        self.costs: dict[str, Benchmark] = {}
        for run in runs:
            cost = None if run.method in self.costs else Benchmark.read(run.folder)
            self.costs |= {} if cost is None else {run.method: cost}

    @property
    def plain(self) -> Mapping[str, Any]:
        """Of the student itself, as all lanes deploy it whose methods deploy no other network."""
        known = [run for run in self.runs if run.state == FINISHED and not (run.result or {}).get("deployed_by")]
        facts = known[0].student if known else {}
        cost = next((self.costs[run.method] for run in known if run.method in self.costs), None)
        return _sizes(facts, None if cost is None else _latency(cost, "student"))

    def of(self, method: str) -> Mapping[str, Any]:
        """Of the network that a lane deploys."""
        mine = [run for run in self.runs if run.method == method and run.state == FINISHED]
        if not mine:
            return _sizes({}, None)
        measured = _latency(self.costs[method], "student") if method in self.costs else None
        own = bool((mine[0].result or {}).get("deployed_by"))
        return _sizes(mine[0].student, measured if own or measured is not None else self.plain["latency_ms"])


def _sizes(facts: Mapping[str, Any], latency: float | None) -> dict[str, Any]:
    return dict(zip(SIZES, (facts.get("parameters"), facts.get("flops"), latency), strict=True))


def _latency(cost: Benchmark, role: str) -> float | None:
    """Milliseconds of one image, if that was measured."""
    taken: Mapping[str, Mapping[str, float]] = cost.networks.get(role, {}).get("latency_ms", {})
    return taken["1"]["median"] if "1" in taken else None


def _line(student: str, cells: Sequence[str], facts: Mapping[str, Any], grouped: bool) -> tuple[str, ...]:
    """A line with its student and what that costs in front."""
    parameters, flops, latency = (facts.get(name) for name in SIZES)
    sizes = (
        "" if parameters is None else f"{parameters:,}" if grouped else str(parameters),
        "" if flops is None else f"{flops / 1e6:.1f}",
        "" if latency is None else f"{latency:.2f}",
    )
    return (student, *sizes, *cells)


def _best(board: Leaderboard) -> str:
    """``st 91.67 % (+2.50 over plain)``."""
    first, headline = board.rows[0], board.scoring.headline
    score = first[headline.name]
    if score is None:
        return "no score"
    gained = f" ({signed(headline, first['gain'])} over plain)" if first["gain"] is not None else ""
    return f"{first['method'][:40]} {headline.shown(score)}{gained}"
