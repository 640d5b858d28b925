"""Who is ahead in a comparison, how sure that is, and what it costs: the facts that sentences and pictures are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from kdengine.report.leaderboard import Leaderboard, scores_by_seed
from kdengine.report.paired import Difference
from kdengine.report.pastrun import FAILED, UNFINISHED
from kdengine.storage.names import PLAIN
from kdengine.storage.scores import Measure

__all__ = ["Entrant", "Standing", "standings"]


@dataclass(frozen=True)
class Entrant:
    """A method in a comparison of one student.

    Attributes:
        label: its name.
        score: mean last headline score of its finished trials; None if there is none.
        trials: how many are finished.
        gain: over the plain student, from the trials that both have finished.
        step: duration of the student's step as a multiple of the plain student's, without the shared forward of the teacher;
            None if either is unknown.
        epochs: of all its phases, and of the assistants before it in a chain.
        state: ``failed`` or ``unfinished``, if some trial is; else empty.
        missing: how many trials that concerns.
        has_assistants: whether other networks are trained before the student.
    """

    label: str
    score: float | None
    trials: int
    gain: Difference | None
    step: float | None
    epochs: int | None
    state: str
    missing: int
    has_assistants: bool = False

    @property
    def ends(self) -> tuple[float, float] | None:
        """Both ends of the interval of its gain, if it has one."""
        gain = self.gain
        return None if gain is None or gain.low is None or gain.high is None else (gain.low, gain.high)


class Standing:
    """Who is ahead of one student's lanes.

    Args:
        board: of one student.
    """

    def __init__(self, board: Leaderboard) -> None:
        self.board = board
        self.measure: Measure = board.scoring.headline
        self.scores = {label: scores_by_seed(runs, self.measure) for label, runs in board.lanes.items()}
        self.plain: Mapping[str, Any] = next((row for row in board.rows if row["method"] == PLAIN), {})

    @cached_property
    def entrants(self) -> list[Entrant]:
        """All methods, the best mean score first."""
        return [self._entrant(row) for row in self.board.rows if row["method"] != PLAIN]

    @cached_property
    def ranked(self) -> list[Entrant]:
        """The methods with the most finished trials, the best first: means over different trials cannot be compared."""
        scored = [one for one in self.entrants if one.score is not None]
        most = max((one.trials for one in scored), default=0)
        return [one for one in scored if one.trials == most]

    @property
    def unranked(self) -> list[Entrant]:
        """The methods that lack trials."""
        return [one for one in self.entrants if one not in self.ranked]

    @cached_property
    def best(self) -> Entrant | None:
        """The best method of which it is sure that it gains; without one, the one with the best mean score."""
        sure = [one for one in self.ranked if one.gain and one.gain.is_gain]
        return next(iter(sure or self.ranked), None)

    @cached_property
    def rivals(self) -> list[Entrant]:
        """The other ranked methods whose paired difference from the best one has an interval that includes zero."""
        return [one for one in self.ranked if self.best and one is not self.best and not self._apart(self.best, one)]

    @property
    def equals(self) -> list[Entrant]:
        """The other ranked methods with the same mean score as the best one."""
        return [one for one in self.ranked if self.best and one is not self.best and one.score == self.best.score]

    def _apart(self, one: Entrant, other: Entrant) -> bool:
        difference = Difference.between(self.measure, self.scores[one.label], self.scores[other.label])
        return difference is not None and (difference.is_gain or difference.is_loss)

    def _entrant(self, row: Mapping[str, Any]) -> Entrant:
        label, runs = row["method"], self.board.lanes[row["method"]]
        gain = Difference.between(self.measure, self.scores[label], self.scores.get(PLAIN, {}))
        states = [run.state for run in runs if run.state in (FAILED, UNFINISHED)]
        score, epochs = row[self.measure.name], row["epochs"]
        others = any(len(run.student_rows) < len(run.rows) for run in runs)
        return Entrant(label, score, row["trials"], gain, self._step(row), epochs, min(states, default=""), len(states), others)

    def _step(self, row: Mapping[str, Any]) -> float | None:
        """All students take the same steps in an epoch, so that the ratio of epochs is that of steps."""
        own, plain = row["seconds_per_epoch"], self.plain.get("seconds_per_epoch")
        return own / plain if own and plain else None


def standings(board: Leaderboard) -> Sequence[tuple[str, Standing]]:
    """The standing of every student with its label; of one student, without a label."""
    boards = board.students or {"": board}
    return [(label, Standing(one)) for label, one in boards.items()]
