"""The measures of a task, and a network's scores after its last and its best epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["CLASSIFICATION", "Measure", "Scoring"]


@dataclass(frozen=True)
class Measure:
    """One evaluation measure.

    Attributes:
        name: its key in ``metrics.jsonl`` and ``result.json``: ``top1``.
        label: its name in tables: ``top-1``.
        unit: ``%``, or empty.
        higher_is_better: whether a higher value is better.
    """

    name: str
    label: str
    unit: str = ""
    higher_is_better: bool = True

    @property
    def title(self) -> str:
        """Label and unit, for a column heading."""
        return f"{self.label} {self.unit}".strip()

    def shown(self, value: float) -> str:
        """Format a value with its unit: ``98.61 %``."""
        return f"{value:.2f} {self.unit}" if self.unit else f"{value:.4f}"

    def better(self, value: float, other: float) -> bool:
        """Whether ``value`` is better than ``other``."""
        return value > other if self.higher_is_better else value < other


@dataclass(frozen=True)
class Scoring:
    """The measures of a task, as stored in run folders.

    Attributes:
        task: name of the task.
        measures: measures of each epoch; the first is the headline, which selects the best epoch.
    """

    task: str
    measures: tuple[Measure, ...]

    @property
    def headline(self) -> Measure:
        """The measure that summarises the network."""
        return self.measures[0]

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain data, for ``manifest.json`` and ``result.json``."""
        return {
            "name": self.task,
            "headline": self.headline.name,
            "measures": [asdict(measure) for measure in self.measures],
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Scoring:
        """Create from plain data."""
        return cls(stored["name"], tuple(Measure(**measure) for measure in stored["measures"]))

    def measured(self, row: Mapping[str, Any]) -> bool:
        """Whether a row of ``metrics.jsonl`` holds scores; rows of phases without the task do not."""
        return f"test_{self.headline.name}" in row

    def judged_by(self, row: Mapping[str, Any]) -> float:
        """The value that selects the best epoch: the headline on held-out images if any, else on the test images."""
        name = self.headline.name
        value: float = row[f"val_{name}"] if f"val_{name}" in row else row[f"test_{name}"]
        return value

    def is_best(self, row: Mapping[str, Any], before: Sequence[Mapping[str, Any]]) -> bool:
        """Whether an epoch is better than all earlier ones."""
        others = (self.judged_by(other) for other in before if self.measured(other))
        return all(self.headline.better(self.judged_by(row), other) for other in others)

    def score(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """All measures on the test images after the last epoch, and the headline after the best one.

        Args:
            rows: rows of one network, as in ``metrics.jsonl``.
        """
        name = self.headline.name
        measured = [row for row in rows if self.measured(row)]
        if not measured:
            return {name: None, f"best_{name}": None}
        sign = 1 if self.headline.higher_is_better else -1
        best, last = max(measured, key=lambda row: sign * self.judged_by(row)), measured[-1]
        held_out = f"val_{name}" in best
        return {
            name: last[f"test_{name}"],
            f"best_{name}": best[f"test_{name}"],
            "best_epoch": best["epoch"],
            **{other.name: last[f"test_{other.name}"] for other in self.measures[1:] if f"test_{other.name}" in last},
            **({f"val_{name}": last[f"val_{name}"], f"best_val_{name}": best[f"val_{name}"]} if held_out else {}),
        }


CLASSIFICATION = Scoring(
    "classification",
    (Measure("top1", "top-1", "%"), Measure("top5", "top-5", "%"), Measure("loss", "loss", higher_is_better=False)),
)
"""The measures of classification, also assumed for folders that do not name their task."""
