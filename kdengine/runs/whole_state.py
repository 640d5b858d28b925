"""The state of a lane in all processes of its run, as one: either all of it is saved, or nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdengine.storage.rank_parts import digests, own_part, with_part
from kdengine.training.lane import Lane
from kdengine.training.runtime import Runtime

__all__ = ["PARTS", "processes_of", "state_of_rank", "whole_state"]

PARTS = "other_processes"
"""Where a state has what differs from it in each process but the first; only if there are others."""


def whole_state(lane: Lane, parts: Sequence[Any] | None = None) -> dict[str, Any]:
    """The state of a lane with what differs from it in the other processes, all of which must call this after the same step.

    Args:
        lane: between two steps.
        parts: what the others have given since the last step; if they have not, they are asked.

    Returns:
        tensors and plain data to save; only in the first process.
    """
    state, peers = lane.state_dict(), lane.runtime.peers
    if peers is None:
        return state
    if parts is None:
        first = peers.share(digests(state) if peers.rank == 0 else None)
        parts = peers.gather(own_part(state, first) if peers.rank else None)[1:]
    return {**state, PARTS: list(parts)}


def processes_of(state: Mapping[str, Any]) -> int:
    """How many processes a saved state is of."""
    return 1 + len(state.get(PARTS, ()))


def state_of_rank(state: Mapping[str, Any], runtime: Runtime) -> dict[str, Any]:
    """The state of the lane in this process; that of the first one, if there were not as many processes.

    Args:
        state: a saved state, which is changed.
        runtime: of the process.
    """
    mine = {key: value for key, value in state.items() if key != PARTS}
    if runtime.rank == 0 or processes_of(state) != runtime.processes:
        return mine
    patched: dict[str, Any] = with_part(mine, state[PARTS][runtime.rank - 1])
    return patched
