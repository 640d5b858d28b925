"""All phases of a lane, over all networks of its chain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kdengine.training.chain import ChainStep
from kdengine.training.lane_module import ResolvedPhase

__all__ = ["PhasePlan"]


class PhasePlan:
    """Every phase of a lane in the order of training, each with the number of its step in the chain.

    Args:
        chain: the networks to train in turn.
    """

    def __init__(self, chain: Sequence[ChainStep]) -> None:
        self._plan = [(number, phase) for number, step in enumerate(chain) for phase in step.phases]

    def __getitem__(self, number: int) -> tuple[int, ResolvedPhase]:
        return self._plan[number]

    @property
    def phases(self) -> list[ResolvedPhase]:
        """All phases, in order."""
        return [phase for _, phase in self._plan]

    @property
    def total_epochs(self) -> int:
        """Total epochs of all phases."""
        return sum(phase.epochs for phase in self.phases)

    def describe(self) -> list[list[Any]]:
        """Every phase as plain data: step in the chain, name, length."""
        return [[number, phase.name, phase.epochs] for number, phase in self._plan]

    def check(self, before: Sequence[Sequence[Any]], number: int) -> None:
        """Refuse a saved state if the phases up to its own have changed; the length of its own phase may differ.

        Args:
            before: the value of :meth:`describe` when the state was saved.
            number: number of the phase it was saved in.

        Raises:
            ValueError: the phases differ.
        """
        now = self.describe()
        same = list(map(list, before[:number])) == now[:number] and number < len(now)
        if not same or list(before[number][:2]) != now[number][:2]:
            raise ValueError(f"its training phases were {before}, but are now {now}")
