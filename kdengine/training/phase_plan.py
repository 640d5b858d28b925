"""The phases of a lane, network after network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kdengine.training.chain import ChainStep
from kdengine.training.lane_module import ResolvedPhase

__all__ = ["PhasePlan"]


class PhasePlan:
    """Every phase of a lane in the order of training, each with the number of its step in the chain.

    Args:
        chain: the networks to teach one after the other.
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
        """Epochs of all phases together."""
        return sum(phase.epochs for phase in self.phases)

    def describe(self) -> list[list[Any]]:
        """Every phase as plain data: its step in the chain, its name, its length."""
        return [[number, phase.name, phase.epochs] for number, phase in self._plan]

    def check(self, before: Sequence[Sequence[Any]], number: int) -> None:
        """Refuse a state whose phases were others up to its own, which may have become longer or shorter.

        Args:
            before: what :meth:`describe` gave when the state was saved.
            number: of the phase in progress then.

        Raises:
            ValueError: they were others.
        """
        now = self.describe()
        same = list(map(list, before[:number])) == now[:number] and number < len(now)
        if not same or list(before[number][:2]) != now[number][:2]:
            raise ValueError(f"its phases of training were {before}, and are {now}")
