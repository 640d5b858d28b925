import torch

from kdengine.storage.rank_parts import digests, own_part, with_part

FIRST = {"a": [torch.zeros(2), {"b": 1.0}], "c": (1, torch.zeros(1)), "d": {}}


def changed(**values):
    return {**FIRST, **values}


def test_what_is_equal_is_not_kept():
    assert own_part(changed(), digests(FIRST)) == {"leaves": []}


def test_a_difference_is_found_wherever_it_lies_and_put_back():
    for other in (
        changed(a=[torch.tensor([0.0, -0.0]), {"b": 1.0}]),
        changed(a=[torch.zeros(2), {"b": 1.5}]),
        changed(a=[torch.zeros(2).double(), {"b": 1.0}]),
        changed(c=(1, torch.ones(1))),
    ):
        part = own_part(other, digests(FIRST))
        assert len(part["leaves"]) == 1
        first = {key: list(value) if isinstance(value, list) else value for key, value in FIRST.items()}
        first["a"][1] = dict(first["a"][1])
        assert digests(with_part(first, part)) == digests(other)


def test_a_state_of_another_form_is_kept_whole():
    other = changed(d={"new": 1})
    assert with_part(FIRST, own_part(other, digests(FIRST))) is other


def test_half_precision_and_numbers_without_dimensions_have_digests():
    one, other = ({"x": torch.tensor(value, dtype=torch.bfloat16)} for value in (1.0, 2.0))
    assert digests(one) != digests(other)
    assert digests(one) == digests({"x": torch.tensor(1.0, dtype=torch.bfloat16)})
