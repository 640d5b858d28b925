"""Matches the stages of two networks that have different numbers of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["match_stages"]

Cost = tuple[float, tuple[int, ...]]


def match_stages(few: Sequence[float], many: Sequence[float]) -> list[int]:
    """For each stage of the network with fewer stages, the index of its match in the other, from 0.

    The matching preserves order and matches last with last. Among all such matchings it minimises the summed distance,
    where a factor of 2 in side counts 1, and so does a difference of the whole network in relative depth. Ties go to the
    deeper stages.

    Args:
        few: sides of the maps of the network with fewer stages, first to last; 1 for tensors that are not maps.
        many: the same for the other network; at least as many.
    """
    last = len(few) - 1
    reached: list[Cost | None] = [(0.0, ())] + [None] * len(many)  # indexed by the number of the other's stages used up
    for number, side in enumerate(few):
        free = range(len(many) - 1, len(many)) if number == last else range(number, len(many) - last + number)
        following: list[Cost | None] = [None] * (len(many) + 1)
        for other in free:
            before = [cost for cost in reached[: other + 1] if cost is not None]
            if before:
                so_far, chosen = min(before, key=_rank)
                depth = abs((number + 1) / len(few) - (other + 1) / len(many))
                octaves = abs(math.log2(side / many[other]))
                following[other + 1] = so_far + depth + octaves, (*chosen, other)
        reached = following
    return list(min((cost for cost in reached if cost is not None), key=_rank)[1])


def _rank(cost: Cost) -> tuple[float, tuple[int, ...]]:
    """Sort key: the smaller cost first, where sums that differ only by rounding are equal; then the deeper stages."""
    return round(cost[0], 9), tuple(-number for number in cost[1])
