"""What observers are told when a comparison has ended."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdengine.plugins.registry import Registry
from kdengine.report.leaderboard import Leaderboard

__all__ = ["Ending", "announce"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ending:
    """A comparison that has ended.

    Attributes:
        folder: its folder.
        title: what was compared, on which data and machine.
        columns: titles of the columns of its table.
        rows: the lines of its table, the best method first.
        facts: the same as numbers, one mapping for each method.
    """

    folder: Path
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    facts: Sequence[Mapping[str, Any]]


def announce(board: Leaderboard, folder: Path, registry: Registry, observers: Iterable[object]) -> None:
    """Say what makes the numbers of a comparison mean nothing, and tell its observers that it has ended.

    Args:
        board: its table.
        folder: its folder.
        registry: knows the observers that are plugins.
        observers: other objects with hooks.
    """
    for warning in board.warnings:
        log.warning("%s", warning)
    table = board.table()
    ending = Ending(folder, table.caption, table.columns, table.rows, board.rows)
    registry.hooks(observers).kdengine_after_comparison(comparison=ending)
