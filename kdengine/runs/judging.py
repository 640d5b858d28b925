"""Warnings about a finished run whose numbers mean nothing: each names the fact, the numbers and what to do.

A warning reads ``FACT AND NUMBERS: WHAT TO DO``; every rule returns one, or None if there is nothing to warn of.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from kdengine.storage.chance import Chance, deviation
from kdengine.storage.scores import Measure, Scoring

__all__ = ["Peak", "exploded", "in_short", "judge_run", "peak_of", "student_at_chance", "teacher_at_chance", "teacher_behind"]

EXPLODED = 10.0
"""Times the loss of guessing, or of the first epoch if that is unknown, beyond which the task loss has exploded."""
CLEARLY = 2.0
"""Standard deviations by which one network must be behind another."""


class Peak(NamedTuple):
    """The highest task loss of a run."""

    loss: float
    epoch: int
    reference: float

    @property
    def shown(self) -> str:
        """``6.7e+05 in epoch 1``."""
        number = f"{self.loss:.3g}" if math.isfinite(self.loss) else "not finite"
        return f"{number} in epoch {self.epoch}"


def judge_run(
    facts: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], scoring: Scoring, chance: Chance | None
) -> tuple[str, ...]:
    """All warnings about a run.

    Args:
        facts: content of its ``result.json``.
        rows: its epochs, as in ``metrics.jsonl``.
        scoring: what its task measures.
        chance: what guessing reaches, if the task knows.
    """
    headline, images = scoring.headline, facts["data"].get("test_images")
    student, teacher = (facts[role] or {} for role in ("student", "teacher"))
    scores = {"student": student.get(headline.name), "teacher": teacher.get(headline.name)}
    found = (
        teacher_at_chance(scores["teacher"], headline, chance, images),
        student_at_chance(scores["student"], "student" if teacher else "network", headline, chance, images),
        teacher_behind(scores["teacher"], scores["student"], "its student", headline, images),
        exploded(rows, chance),
    )
    return tuple(warning for warning in found if warning is not None)


def student_at_chance(
    score: float | None, role: str, headline: Measure, chance: Chance | None, images: int | None
) -> str | None:
    """The student, or the network of plain training, learned nothing."""
    if score is None or chance is None or not chance.is_near(score, headline, images):
        return None
    return f"The {role} is near chance, {_against_guessing(score, headline, chance)}: lower train.lr, or train for more epochs."


def teacher_at_chance(score: float | None, headline: Measure, chance: Chance | None, images: int | None) -> str | None:
    """The teacher has nothing to teach."""
    if score is None or chance is None or not chance.is_near(score, headline, images):
        return None
    return (
        f"The teacher is near chance, {_against_guessing(score, headline, chance)}: lower teacher_train.lr, raise "
        "teacher_train.epochs, or give trained weights with teacher_weights."
    )


def teacher_behind(teacher: float | None, student: float | None, who: str, headline: Measure, images: int | None) -> str | None:
    """The teacher is worse than a student, by more than their test images can tell apart.

    Args:
        teacher: the teacher's score, if it was measured.
        student: the student's score, if any.
        who: the student in the sentence, such as ``its student``.
        headline: what the scores are.
        images: number of test images, if known.
    """
    if teacher is None or student is None or not headline.better(student, teacher):
        return None
    if abs(student - teacher) <= CLEARLY * math.hypot(*(deviation(headline, score, images) for score in (teacher, student))):
        return None
    return (
        f"The teacher is behind {who}, {headline.label} {headline.shown(teacher)} against {headline.shown(student)}: train it "
        "longer (teacher_train.epochs) or at another rate (teacher_train.lr), or choose a stronger one."
    )


def exploded(rows: Sequence[Mapping[str, Any]], chance: Chance | None) -> str | None:
    """The task loss of some epoch is far above that of guessing."""
    peak = peak_of(rows, chance)
    if peak is None:
        return None
    source = "guessing" if chance else "the first epoch"
    return (
        f"The task loss exploded, {peak.shown} ({peak.reference:.3g} is that of {source}): lower train.lr, or set "
        "train.warmup_epochs or train.clip_grad."
    )


def peak_of(rows: Sequence[Mapping[str, Any]], chance: Chance | None) -> Peak | None:
    """The highest task loss of a run, if that has exploded."""
    losses = [(_number(row["terms"]["task"]), row["epoch"]) for row in rows if "task" in row.get("terms", {})]
    if not losses:
        return None
    reference = losses[0][0] if chance is None else chance.loss
    loss, epoch = max(losses)
    return Peak(loss, epoch, reference) if math.isinf(loss) or loss > EXPLODED * reference > 0 else None


def in_short(warning: str) -> str:
    """Its first half: the fact and the numbers, for a cell of a table."""
    return warning.partition(": ")[0]


def _against_guessing(score: float, headline: Measure, chance: Chance) -> str:
    return f"{headline.label} {headline.shown(score)} where guessing gives {headline.shown(chance.score)}"


def _number(loss: float | None) -> float:
    """JSON has null for a loss that is not finite."""
    return loss if loss is not None and math.isfinite(loss) else math.inf
