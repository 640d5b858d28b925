"""What is said about a run, in one line each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kdengine.storage.scores import Measure
from kdengine.training.signals import Stopped, saved_so_far

if TYPE_CHECKING:
    from kdengine.runs.run import Run

__all__ = ["epoch_line", "final_scores", "label_of_run", "news_of", "saved_part"]


def epoch_line(run: Run, record: Mapping[str, Any], headline: Measure) -> str:
    """``epoch  1/30  test 9.75 %  task 2.306  rkd.angle 3.088  1.0 s``."""
    phase = "" if record["phase"] == "joint" else f" {record['phase']}"
    width = len(str(run.total_epochs))
    epoch = f"epoch {record['epoch']:>{width}}/{run.total_epochs}{phase}"
    return f"{epoch}{_scores(record, headline)}  {_terms(record)}  {record['seconds']:.1f} s"


def final_scores(student: Mapping[str, Any], headline: Measure) -> str:
    """``test top-1 87.50 % (best 90.00 %)``."""
    last, best = student.get(headline.name), student.get(f"best_{headline.name}")
    if last is None or best is None:
        return "nothing was measured"
    return f"test {headline.label} {headline.shown(last)} (best {headline.shown(best)})"


def label_of_run(run: Run) -> str:
    """Trial and lane, ``trial-1 rkd``, of several students with its label; while the teacher itself is trained, its name."""
    *_, above, parent, _ = ("", "", *run.folder.path.parts)
    if parent.startswith("trial-"):
        return f"{parent} {run.lane.name}"
    return f"{above} {parent} {run.lane.name}" if above.startswith("trial-") else run.settings.student


def saved_part(run: Run, error: BaseException) -> str:
    """What of an interrupted run has been saved."""
    steps = run.lane.steps_done if isinstance(error, Stopped) and run.can_save_within_epochs else 0
    return saved_so_far(len(run.lane.history), steps)


def news_of(error: BaseException) -> str:
    """How an error ended a lane: ``interrupted``, or ``failed: REASON`` on one line."""
    return "interrupted" if isinstance(error, KeyboardInterrupt) else f"failed: {' '.join(str(error).split())}"


def _terms(record: Mapping[str, Any]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in record["terms"].items())


def _scores(record: Mapping[str, Any], headline: Measure) -> str:
    """``  val 87.50 %  test 86.11 %  average 87.03 %``; nothing for an epoch in which nothing was measured."""
    scores = {split: record.get(f"{split}_{headline.name}") for split in ("val", "test")}
    scores["average"] = record.get(f"ema_test_{headline.name}")
    return "".join(f"  {split} {headline.shown(score)}" for split, score in scores.items() if score is not None)
