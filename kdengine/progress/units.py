"""Progress of units that run elsewhere: the lanes of all of them in one table, and a line for what happens to units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdengine.errors import counted
from kdengine.progress.lane_table import LaneTable
from kdengine.storage.scores import Measure

__all__ = ["UnitsProgress"]


class UnitsProgress(LaneTable):
    """Shows the lanes of a comparison on standard error, from what their workers tell.

    Args:
        headline: the measure to show.
        shows: whether to show anything at all.
    """

    def __init__(self, headline: Measure, shows: bool = True) -> None:
        super().__init__()
        self._headline = headline
        self._shows = shows

    def say(self, text: str) -> None:
        """A line, above the table."""
        if self._shows:
            self._say(text)

    def tell(self, unit: str, event: Mapping[str, Any]) -> None:
        """Show what a worker says.

        Args:
            unit: name of its unit.
            event: as :class:`kdengine.dispatch.events.EventWriter` writes it; others are ignored.
        """
        if not self._shows:
            return
        label = event.get("lane")
        if "started" in event:
            self._say(f"{unit}: started on {event['started']}")
        elif not isinstance(label, str):
            return
        elif "total" in event:
            self._begin(label, event)
        elif "line" in event:
            self._epoch(label, event)
        elif "epochs" in event:
            self._move(label, event["epochs"])
        elif "ended" in event:
            self._ended(label, event["ended"])

    def close(self) -> None:
        """Leave the table as it is."""
        self._leave()

    def _begin(self, label: str, event: Mapping[str, Any]) -> None:
        row = self._rows.get(label)
        if row is not None:  # its last worker was lost
            row.news, row.open = "", True
        elif not self._add(label, event["total"], event["epochs"]):
            self._say(f"{label}: {event.get('title', '')}, {counted(event['total'], 'epoch')}")

    def _epoch(self, label: str, event: Mapping[str, Any]) -> None:
        if self._live is None or label not in self._rows:
            self._say(f"  {label}: {event['line']}")
        else:
            self._measured(label, event["epochs"], event["loss"], event["seconds"], event["score"])

    def _ended(self, label: str, news: str) -> None:
        row = self._rows.get(label)
        if row is not None:
            row.news, row.open = news, False
        elif news != "done":
            self._say(f"{label}: {news}")
