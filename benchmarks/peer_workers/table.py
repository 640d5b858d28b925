"""Makes a table in Markdown of what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["Measured", "agreement", "heading", "lines_of", "summary"]

GOALS = {"fp32": 0.75, "default": 0.5}
"""Ratio to the fastest peer that kdengine is to stay below, by precision."""
CLOSE = 1e-4
"""Relative difference up to which two losses are the same number."""


@dataclass
class Measured:
    """What was measured of a method.

    Attributes:
        method: its name.
        kdengine: precision -> median seconds of a step in each round.
        peers: library -> the same.
        failures: library -> why it did not run.
        losses: library -> total loss of the first step in fp32.
        note: how definitions differ.
    """

    method: str
    kdengine: Mapping[str, Sequence[float]] = field(default_factory=dict)
    peers: Mapping[str, Sequence[float]] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)
    losses: Mapping[str, float] = field(default_factory=dict)
    note: str = ""

    def ratio(self, precision: str, peer: str) -> float | None:
        """Median over the rounds of kdengine's step over that of a peer; None if one of them did not run."""
        pairs = list(zip(self.kdengine.get(precision, ()), self.peers.get(peer, ()), strict=False))
        return statistics.median(ours / theirs for ours, theirs in pairs) if pairs else None

    def to_fastest(self, precision: str) -> float | None:
        """The ratio to the fastest peer; None if none ran."""
        ratios = [ratio for peer in self.peers if (ratio := self.ratio(precision, peer)) is not None]
        return max(ratios, default=None)


def heading(peers: Sequence[str]) -> str:
    """The first two lines of the table."""
    heads = ["method", "precision", "kdengine, ms", *(f"/ {peer} (ms)" for peer in peers), "/ fastest peer"]
    return f"{_line(heads)}\n{_line(['---'] * len(heads))}"


def lines_of(row: Measured, peers: Sequence[str]) -> str:
    """One line a precision: kdengine's milliseconds, and its ratio to each peer (whose milliseconds follow)."""
    lines = []
    for precision in GOALS:
        own = row.kdengine.get(precision)
        cells = [row.method, precision, f"{1e3 * statistics.median(own):.0f}" if own else "fails"]
        cells += [_cell(row, precision, peer) for peer in peers]
        fastest = row.to_fastest(precision)
        lines.append(_line([*cells, "" if fastest is None else f"{fastest:.2f}"]))
    return "\n".join(lines)


def _cell(row: Measured, precision: str, peer: str) -> str:
    ratio = row.ratio(precision, peer)
    if ratio is not None:
        return f"{ratio:.2f} ({1e3 * statistics.median(row.peers[peer]):.0f})"
    failure = row.failures.get(peer, "missing")
    return failure if failure == "missing" else "fails"


def summary(rows: Iterable[Measured]) -> list[str]:
    """Sentences: the ratios to the fastest peer against the goal, and why something did not run."""
    rows, lines = list(rows), []
    for precision, goal in GOALS.items():
        ratios = {row.method: ratio for row in rows if (ratio := row.to_fastest(precision)) is not None}
        if ratios:
            above = [f"{method} {ratio:.2f}" for method, ratio in ratios.items() if ratio > goal]
            lines.append(
                f"{precision}: {len(ratios) - len(above)} of {len(ratios)} methods take at most {goal} of the fastest peer's "
                f"step, median {statistics.median(ratios.values()):.2f}" + (f"; not {', '.join(above)}." if above else ".")
            )
    why = [(row.method, name, text) for row in rows for name, text in row.failures.items() if text != "missing"]
    return [*lines, *(f"{method} does not run in {name}: {text}" for method, name, text in why)]


def agreement(rows: Iterable[Measured]) -> str:
    """A table of the first step's loss in each library, and whether it is the same number."""
    lines = [_line(["method", "kdengine", "peers", "the same"]), _line(["---"] * 4)]
    for row in rows:
        own = row.losses.get("kdengine")
        theirs = {name: value for name, value in row.losses.items() if name != "kdengine"}
        if own is None or not theirs:
            continue
        same = all(abs(value - own) <= CLOSE * max(abs(own), abs(value)) for value in theirs.values())
        verdict = "yes" if same else f"no: {row.note}" if row.note else "NO"
        lines.append(_line([row.method, f"{own:.6g}", ", ".join(f"{n} {v:.6g}" for n, v in theirs.items()), verdict]))
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
