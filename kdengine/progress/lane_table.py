"""One table of many lanes that is redrawn in place."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar as Bar
from rich.table import Table
from rich.text import Text

from kdengine.progress.screen import can_redraw, new_console
from kdengine.storage.scores import CLASSIFICATION, Measure

__all__ = ["LaneTable"]

AROUND = 5
"""Lines of the screen that the table leaves free for its head and what stands above and below."""


@dataclass
class _Row:
    """A lane in the table."""

    label: str
    total: int
    epochs: float = 0.0
    last: float | None = None
    best: float | None = None
    loss: float | None = None
    seconds: float = 0.0
    news: str = ""
    open: bool = True


class LaneTable:
    """The lanes of a comparison on standard error; it is drawn from the first lane on until the last one has ended.

    Where nothing can be redrawn, it draws nothing, and its caller prints lines instead.
    """

    def __init__(self) -> None:
        self.console = new_console()
        self._headline: Measure = CLASSIFICATION.headline
        self._live: Live | None = None
        self._rows: dict[str, _Row] = {}

    def _say(self, text: str) -> None:
        self.console.print(text, soft_wrap=True)

    def _add(self, label: str, total: int, done: float) -> bool:
        """Add a lane; False if nothing can be redrawn."""
        if not can_redraw(self.console):
            return False
        self._rows[label] = _Row(label, total, epochs=done)
        if self._live is None:
            self._live = Live(get_renderable=self._table, console=self.console, refresh_per_second=4)
            self._live.start()
        return True

    def _move(self, label: str, epochs: float) -> None:
        """Move the bar of a lane."""
        if self._live is not None and label in self._rows:
            self._rows[label].epochs = epochs

    def _measured(self, label: str, epochs: float, loss: float, seconds: float, score: float | None) -> None:
        """Show what an epoch gave."""
        row, headline = self._rows[label], self._headline
        row.epochs, row.loss = epochs, loss
        row.seconds += seconds
        if score is not None:
            row.last = score
            row.best = score if row.best is None or headline.better(score, row.best) else row.best

    def _end(self, label: str, news: str) -> bool:
        """Mark a lane of the table as ended; after the last one, leave the table as it is. False without a table."""
        row = self._rows.get(label)
        if self._live is None or row is None:
            return False
        row.news, row.open = news, False
        if not any(other.open for other in self._rows.values()):
            self._leave()
        return True

    def _leave(self) -> None:
        """Stop drawing; what was drawn last stays."""
        if self._live is not None:
            self._live.stop()
        self._live = None
        self._rows.clear()

    def _table(self) -> Group:
        """All lanes, or as many as fit on the screen, those in training first; below them, why lanes failed."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        headline = self._headline
        table.add_column("lane", overflow="fold", ratio=1)
        for head in ("epoch", "", f"test {headline.label}", "best", "loss", "time"):
            table.add_column(head, justify="right", no_wrap=True)
        rows = list(self._rows.values())
        fitting = max(1, self.console.height - AROUND)
        shown = rows if len(rows) <= fitting else sorted(rows, key=lambda row: not row.open)[:fitting]
        for row in shown:
            scores = ("" if score is None else headline.shown(score) for score in (row.last, row.best))
            bar = Bar(total=row.total, completed=row.epochs, width=10)
            loss = "" if row.loss is None else f"{row.loss:.3g}"
            table.add_row(Text(row.label), f"{int(row.epochs)}/{row.total}", bar, *scores, loss, f"{row.seconds:.0f} s")
        below = [f"{row.label} {row.news}" for row in shown if row.news.startswith("failed")]
        below += [f"and {len(rows) - len(shown)} more lanes"] if len(shown) < len(rows) else []
        return Group(table, *map(Text, below))
