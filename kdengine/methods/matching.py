"""Which stage of one network meets which of another that has more of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["match_stages"]

Cost = tuple[float, tuple[int, ...]]


def match_stages(few: Sequence[float], many: Sequence[float]) -> list[int]:
    """For each stage of the network with fewer of them, the number of the one that it meets in the other, from 0.

    The order is kept and the last meets the last. Among all such choices, the one is taken whose stages are nearest to
    each other: in size, one for each doubling of the side, and in relative depth, one for the whole network. Of equal
    choices the deeper is taken.

    Args:
        few: sides of the maps of the network with fewer stages, first to last; 1 for what has no places.
        many: the same for the other; at least as many.
    """
    last = len(few) - 1
    reached: list[Cost | None] = [(0.0, ())] + [None] * len(many)  # by how many of the other's stages are used up
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
    """The smaller cost first, sums that differ by rounding alone taken as equal; then the deeper stages."""
    return round(cost[0], 9), tuple(-number for number in cost[1])
