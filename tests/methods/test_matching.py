import itertools
import math

import pytest

from kdengine.methods.matching import match_stages


@pytest.mark.parametrize(
    ("few", "many", "matched"),
    [
        ([32, 16, 8], [32, 16, 8], [0, 1, 2]),
        ([32, 16, 8], [32, 16, 8, 4], [0, 1, 3]),
        ([32, 16, 8], [32, 32, 16, 8], [0, 2, 3]),  # of two alike in size, the one nearer in depth
        ([56, 28, 14, 7], [14] * 12, [2, 5, 8, 11]),
        ([7] * 4, [7] * 24, [5, 11, 17, 23]),
        ([4], [16, 8, 4, 2], [3]),
        ([1, 1], [1, 1, 1, 1], [1, 3]),
    ],
)
def test_stages_meet_by_size_and_depth_in_order_and_the_last_meets_the_last(few, many, matched):
    assert match_stages(few, many) == matched


def cost(few, many, chosen):
    sizes = sum(abs(math.log2(a / many[b])) for a, b in zip(few, chosen, strict=True))
    return sizes + sum(abs((k + 1) / len(few) - (b + 1) / len(many)) for k, b in enumerate(chosen))


@pytest.mark.parametrize("few", [[8.0], [32, 8], [28, 14, 7], [56, 28, 14, 7]])
@pytest.mark.parametrize("many", [[16, 16, 8, 8, 4], [7, 7, 7, 7, 7, 7], [56, 28, 28, 14, 14, 7, 1]])
def test_no_other_choice_is_nearer(few, many):
    found = match_stages(few, many)
    choices = [(*before, len(many) - 1) for before in itertools.combinations(range(len(many) - 1), len(few) - 1)]
    assert tuple(found) in choices
    assert cost(few, many, found) == pytest.approx(min(cost(few, many, choice) for choice in choices))
