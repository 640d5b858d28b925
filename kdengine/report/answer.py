"""What a comparison has found, in a sentence or two: which method, how sure that is, and at what cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kdengine.errors import counted
from kdengine.report.leaderboard import Leaderboard
from kdengine.report.paired import Difference
from kdengine.report.pastrun import UNFINISHED
from kdengine.report.standing import Entrant, Standing, standings
from kdengine.report.wording import compared, evidence, listed, signed_number, times
from kdengine.storage.names import PLAIN

__all__ = ["COMBINATION", "METHOD", "Answer", "answer_of"]

METHOD, COMBINATION = "method", "combination"
"""What the lanes of a comparison are, and those of a sweep."""


@dataclass(frozen=True)
class Answer:
    """The result of a comparison in words.

    Attributes:
        lead: the sentence that answers the question.
        further: what must be known beside it.
        students: of several students, label -> the answer for it.
    """

    lead: str
    further: tuple[str, ...] = ()
    students: tuple[tuple[str, Answer], ...] = ()

    def __str__(self) -> str:
        own = " ".join((self.lead, *self.further))
        return "\n".join([own, *(f"{label}: {answer}" for label, answer in self.students)])


def answer_of(board: Leaderboard, noun: str = METHOD) -> Answer | None:
    """What the trials of a comparison say; None if there are not two lanes to compare.

    Args:
        board: its table.
        noun: what its lanes are: ``method``, or ``combination`` in a sweep.
    """
    several = [(label, standing) for label, standing in standings(board) if len(standing.board.lanes) > 1]
    parts = [(label, Sentences(standing, noun).answer) for label, standing in several]
    if not board.students:
        return parts[0][1] if parts else None
    return Answer(_best_of_family(board), (), tuple(parts)) if parts else None


def _best_of_family(board: Leaderboard) -> str:
    """The student and method with the best score, and what that student costs."""
    measure = board.scoring.headline
    scored = [row for row in board.rows if row[measure.name] is not None]
    if not scored:
        return "No lane has finished."
    best = (max if measure.higher_is_better else min)(scored, key=lambda row: row[measure.name])
    how = "without a method" if best["method"] == PLAIN else f"taught by {best['method']}"
    speed = "" if best["latency_ms"] is None else f" and {best['latency_ms']:.2f} ms an image"
    size = "" if best["parameters"] is None else f", with {best['parameters']:,} parameters{speed}"
    return f"{best['student']} {how} has the best {measure.label}, {measure.shown(best[measure.name])}{size}."


class Sentences:
    """The sentences about one student.

    Args:
        standing: who is ahead.
        noun: what its lanes are.
    """

    def __init__(self, standing: Standing, noun: str) -> None:
        self.standing = standing
        self.measure = standing.measure
        self.noun = noun

    @property
    def answer(self) -> Answer:
        """All of them."""
        best = self.standing.best
        if best is None:
            return Answer(self._nothing())
        return Answer(self._lead(best), tuple(self._further(best)))

    def _nothing(self) -> str:
        """There is no score."""
        if any(one.state == UNFINISHED or not one.state for one in self.standing.entrants):
            return f"No {self.noun} has finished, so there is no answer yet."
        return f"Every {self.noun} failed."

    def _lead(self, best: Entrant) -> str:
        label, gain = self.measure.label, best.gain
        if self.standing.board.verdict.no_baseline:
            return f"No gain can be told, because the plain student is no baseline. {self._without_gain(best)}"
        if gain is None:
            return f"{self._without_gain(best)} The plain student has no score in its trials, so no gain is known."
        how, sure = compared(self.measure, gain.mean), evidence(self.measure, gain)
        if gain.is_loss or (gain.low is None and gain.mean <= 0):
            return f"No {self.noun} gains: the {label} of {best.label}, {self._best_of()}, is {how} ({sure})."
        if gain.low is None:
            return (
                f"In one trial, {best.label} has the best {label}{self._among()}, {how}: one trial cannot say how sure that is."
            )
        if not gain.is_gain:
            return (
                f"No {self.noun} is shown to beat the plain student: the {label} of {best.label}, "
                f"{self._best_of()}, is {how} ({sure})."
            )
        return self._winner(best, gain)

    def _winner(self, best: Entrant, gain: Difference) -> str:
        """The best method gains for sure."""
        label, how, sure = self.measure.label, compared(self.measure, gain.mean), evidence(self.measure, gain)
        first = self.standing.ranked[0]
        if first is not best:
            return f"{best.label} gains: its {label} is {how} ({sure})."
        if len(self.standing.ranked) == 1:
            return f"{best.label} helps: its {label} is {how} ({sure})."
        if self.standing.rivals:
            return f"{best.label} has the best mean {label}{self._among()}, {how} ({sure})."
        return f"{best.label} is best{self._among()}: its {label} is {how} ({sure})."

    def _further(self, best: Entrant) -> Iterator[str]:
        yield from self._rivals(best)
        yield from self._cost(best)
        yield from self._unranked()
        if self.noun == COMBINATION and len(self.standing.ranked) > 1 and best.gain is not None and best.gain.mean > 0:
            yield "It was chosen by its score on the test images, so expect less of it on new ones."

    def _rivals(self, best: Entrant) -> Iterator[str]:
        """Which methods the trials cannot tell from the best one."""
        ranked, first = self.standing.ranked, self.standing.ranked[0]
        if first is not best and first.gain is not None and first.ends is not None:
            ends = " to ".join(signed_number(self.measure, end) for end in first.ends)
            yield f"{first.label} has a better mean, but its gain may be none (95 % interval {ends})."
        if best.trials < 2 or (best.gain is not None and best.gain.trials < 2):
            same = [one.label for one in self.standing.equals]
            if same:
                yield f"{listed(same)} {'has' if len(same) == 1 else 'have'} the same {self.measure.label}."
            yield "Repeat with --trials 3, or more."
            return
        rivals = [one.label for one in self.standing.rivals]
        if rivals:
            yield f"These trials cannot tell it apart from {listed(rivals)}."
        elif len(ranked) > 1 and first is best and best.gain is not None and best.gain.is_gain:
            yield f"It is ahead of every other {self.noun} too."

    def _cost(self, best: Entrant) -> Iterator[str]:
        """What its training costs."""
        if best.step is not None:
            yield f"A training step of {best.label} takes {times(best.step)} the plain student's."
        plain = self.standing.plain.get("epochs")
        if plain and best.epochs and best.epochs != plain:
            among = ", those of its assistants among them" if best.has_assistants else ""
            yield f"It trains for {counted(best.epochs, 'epoch')}{among}, the plain student for {plain}."

    def _unranked(self) -> Iterator[str]:
        """Which methods lack trials."""
        whole: dict[str, list[str]] = {}
        for one in self.standing.unranked:
            if one.trials == 0:
                whole.setdefault(one.state or UNFINISHED, []).append(one.label)
            else:
                share = f"{one.missing} of {one.trials + one.missing} trials"
                yield f"{one.label} {'is unfinished' if one.state == UNFINISHED else 'failed'} in {share} and is not ranked."
        for state, labels in whole.items():
            verb = "failed" if state != UNFINISHED else "is not finished" if len(labels) == 1 else "are not finished"
            yield f"{listed(labels)} {verb}."

    def _without_gain(self, best: Entrant) -> str:
        score = "" if best.score is None else f", {self.measure.shown(best.score)}"
        return f"{best.label} has the best {self.measure.label}{self._among()}{score}."

    def _among(self) -> str:
        count = len(self.standing.ranked)
        return f" of {counted(count, self.noun)}" if count > 1 else ""

    def _best_of(self) -> str:
        count = len(self.standing.ranked)
        only = f"the only {self.noun}{' that finished' if self.standing.unranked else ''}"
        return f"the best of {counted(count, self.noun)}" if count > 1 else only
