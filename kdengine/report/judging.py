"""Warnings about a comparison whose numbers mean nothing, above all one whose baseline is broken."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from kdengine.report.columns import rank
from kdengine.report.pastrun import FINISHED, PastRun
from kdengine.runs.judging import Peak, peak_of, teacher_at_chance, teacher_behind
from kdengine.storage.chance import Chance
from kdengine.storage.names import PLAIN
from kdengine.storage.scores import Measure

__all__ = ["Judge", "Verdict"]

FAR = 0.6
"""A baseline that beats guessing by less than this share of the best method's lead is broken; no method helps that much."""
SPREADS = 3.0
"""A baseline is an outlier if it is further below every method than so many standard deviations of the methods ..."""
APART = 0.8
"""... and its lead over guessing is less than this share of theirs; methods that merely help are closer together."""


@dataclass(frozen=True)
class Verdict:
    """What is wrong with a comparison.

    Attributes:
        warnings: sentences that name the fact, the numbers and what to do.
        notes: lane -> the same in a few words.
        teacher: the same about the teacher; empty if there is nothing to say.
        no_baseline: whether the plain student is broken, so that no gain over it means anything.
    """

    warnings: tuple[str, ...] = ()
    notes: Mapping[str, str] = field(default_factory=dict)
    teacher: str = ""
    no_baseline: bool = False


class Judge:
    """Looks for broken lanes, teachers and baselines.

    Args:
        lanes: lane -> its trials, in any state; only the finished ones count.
        teacher: what is known about the teacher, if there is one.
        headline: the measure that the lanes are compared by.
    """

    def __init__(self, lanes: Mapping[str, Sequence[PastRun]], teacher: Mapping[str, Any] | None, headline: Measure) -> None:
        finished = {label: [run for run in runs if run.state == FINISHED] for label, runs in lanes.items()}
        self.lanes = {label: runs for label, runs in finished.items() if runs}
        self.headline = headline
        self.teacher_score = (teacher or {}).get(headline.name)
        first = next((run for runs in lanes.values() for run in runs), None)
        self.chance = None if first is None else Chance.from_dict(first.manifest.get("chance"))
        self.images = None if first is None else first.data.get("test_images")

    def verdict(self) -> Verdict:
        """Everything that is wrong."""
        warnings = [*self._of_the_teacher(), self.no_baseline, self._lanes_at_chance(), self._lanes_exploded()]
        notes = {label: ", ".join(self._note(label)) for label in self.lanes}
        found = tuple(warning for warning in warnings if warning)
        teacher = "; ".join(self._teacher_note())
        return Verdict(found, {label: note for label, note in notes.items() if note}, teacher, bool(self.no_baseline))

    @cached_property
    def means(self) -> dict[str, float]:
        """Lane -> mean last score, the best first; lanes that measured nothing are left out."""
        scores = {label: self._scores(runs) for label, runs in self.lanes.items()}
        means = {label: statistics.fmean(values) for label, values in scores.items() if values}
        return dict(sorted(means.items(), key=lambda item: rank(self.headline, item[1])))

    @cached_property
    def at_chance(self) -> dict[str, int]:
        """Lane -> how many of its trials are near chance; lanes without any are left out."""
        if self.chance is None:
            return {}
        near = {
            label: sum(self.chance.is_near(score, self.headline, self.images) for score in self._scores(runs))
            for label, runs in self.lanes.items()
        }
        return {label: count for label, count in near.items() if count}

    @cached_property
    def peaks(self) -> dict[str, Peak]:
        """Lane -> the highest task loss of its trials, if that has exploded."""
        peaks = {label: [peak_of(run.rows, self.chance) for run in runs] for label, runs in self.lanes.items()}
        known = {label: [peak for peak in found if peak is not None] for label, found in peaks.items()}
        return {label: max(found) for label, found in known.items() if found}

    @cached_property
    def no_baseline(self) -> str | None:
        """The warning that gains over the plain student mean nothing, if they do not."""
        reason = self._broken_baseline()
        return reason and (
            f"The plain student is no baseline, {reason}: gains over it mean nothing; lower train.lr for all lanes, or let "
            "--tune-lr choose it."
        )

    def _broken_baseline(self) -> str | None:
        others = {label: mean for label, mean in self.means.items() if label != PLAIN}
        if self.chance is None or PLAIN not in self.means:
            return None
        plain = self.means[PLAIN]
        if PLAIN in self.at_chance:
            return f"{self._near(PLAIN)} with {self._shown(plain)} where guessing gives {self._value(self.chance.score)}"
        leads = {label: self.chance.lead(mean, self.headline) for label, mean in others.items()}
        lead = self.chance.lead(plain, self.headline)
        best = next(iter(others), None)
        if best is not None and lead < FAR * leads[best]:
            return f"{self._shown(plain)} against {self._value(others[best])} of {best}, the best method"
        if len(leads) < 2:
            return None
        worst = min(leads, key=leads.__getitem__)
        apart = leads[worst] - lead > SPREADS * statistics.stdev(leads.values())
        if apart and lead < APART * leads[worst]:
            return f"{self._shown(plain)} against {self._value(others[worst])} of {worst}, the worst method"
        return None

    def _of_the_teacher(self) -> list[str | None]:
        at_chance = teacher_at_chance(self.teacher_score, self.headline, self.chance, self.images)
        plain = self.means.get(PLAIN)
        return [at_chance, teacher_behind(self.teacher_score, plain, "the plain student", self.headline, self.images)]

    def _teacher_note(self) -> Iterator[str]:
        at_chance, behind = self._of_the_teacher()
        if at_chance:
            yield "near chance"
        if behind:
            yield "behind the plain student"

    def _lanes_at_chance(self) -> str | None:
        """The methods near chance; the plain student is warned of as the baseline."""
        near = [label for label in self.at_chance if label != PLAIN]
        if not near or self.chance is None:
            return None
        named = ", ".join(f"{label} {self._near(label)} ({self._value(self.means[label])})" for label in near)
        return (
            f"Some lanes learned little, {named}, where guessing gives {self._shown(self.chance.score)}: their scores mean "
            "nothing; lower train.lr, or train for more epochs."
        )

    def _lanes_exploded(self) -> str | None:
        if not self.peaks:
            return None
        named = ", ".join(f"{label} ({peak.shown})" for label, peak in self.peaks.items())
        reference = next(iter(self.peaks.values())).reference
        return (
            f"The task loss exploded, {named}, where {'guessing' if self.chance else 'the first epoch'} has {reference:.3g}: "
            "lower train.lr, or set train.warmup_epochs or train.clip_grad."
        )

    def _note(self, label: str) -> Iterator[str]:
        if label == PLAIN and self.no_baseline:
            yield "no baseline: gains mean nothing"
        if label in self.at_chance:
            yield self._near(label)
        if label in self.peaks:
            yield f"task loss {self.peaks[label].shown}"

    def _near(self, label: str) -> str:
        count, total = self.at_chance[label], len(self.lanes[label])
        return "near chance" if count == total else f"near chance in {count} of {total} trials"

    def _scores(self, runs: Sequence[PastRun]) -> list[float]:
        scores = [run.student.get(self.headline.name) for run in runs]
        return [score for score in scores if score is not None]

    def _value(self, score: float) -> str:
        return self.headline.shown(score)

    def _shown(self, score: float) -> str:
        return f"{self.headline.label} {self._value(score)}"
