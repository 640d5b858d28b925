"""The history of a lane: its epochs and their scores."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from kdengine.storage.jsontext import json_text
from kdengine.storage.scores import Scoring

__all__ = ["History"]


class History(list[dict[str, Any]]):
    """One row per epoch, as in ``metrics.jsonl``.

    Args:
        scoring: what the task measures.
        rows: rows of the epochs so far.
    """

    def __init__(self, scoring: Scoring, rows: Iterable[dict[str, Any]] = ()) -> None:
        super().__init__(rows)
        self.scoring = scoring

    def to_plain(self) -> Any:
        """The rows as they are read back from a file: observers may have added values of any type."""
        return json.loads(json_text(self))

    def of_step(self, number: int) -> list[dict[str, Any]]:
        """The rows of one step of the chain, numbered from 0."""
        return [row for row in self if row.get("chain_step", 1) == number + 1]

    def would_be_best(self, record: dict[str, Any], number: int) -> bool:
        """Whether a new row of a step of the chain scores better than all of its earlier rows."""
        return self.scoring.measured(record) and self.scoring.is_best(record, self.of_step(number))

    def since_best(self, number: int) -> int:
        """Measured epochs of a step of the chain after its best one."""
        rows = [row for row in self.of_step(number) if self.scoring.measured(row)]
        best = max((place for place, row in enumerate(rows) if self.scoring.is_best(row, rows[:place])), default=len(rows) - 1)
        return len(rows) - 1 - best

    def score(self, number: int) -> dict[str, Any]:
        """The scores of a step of the chain after its last epoch and its best one; those of averaged weights after the last."""
        rows = self.of_step(number)
        last = rows[-1] if rows else {}
        averaged = {name.replace("test_", "", 1): value for name, value in last.items() if name.startswith("ema_test_")}
        return {**self.scoring.score(rows), **averaged}
