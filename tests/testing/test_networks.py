import pytest
import torch

from kdengine import Anatomy
from kdengine.testing import tiny_pair, vit_pair

IMAGES = torch.zeros(2, 3, 32, 32)


def shapes(network):
    anatomy = Anatomy.of(network, (3, 32, 32))
    return [tuple(anatomy.tensor(point).shape[1:]) for point in anatomy.resolve("stages").values()]


@pytest.mark.parametrize("make", [tiny_pair, vit_pair])
def test_teacher_and_student_differ_in_width_and_size_at_every_stage(make):
    teacher, student = make(num_classes=7)
    assert teacher(IMAGES).shape == student(IMAGES).shape == (2, 7)
    assert not teacher.training
    assert student.training
    for one, other in zip(shapes(teacher), shapes(student), strict=False):
        assert one[0] != other[0]


def test_a_transformer_shows_its_tokens_as_maps():
    teacher, student = vit_pair()
    assert shapes(teacher) == [(12, 4, 4)] * 4
    assert len(shapes(student)) == 3


def test_the_seed_decides_the_weights_and_the_global_state_is_left_alone():
    state = torch.get_rng_state()
    one, same, other = tiny_pair(), tiny_pair(), tiny_pair(seed=1)
    assert torch.equal(one[1].fc.weight, same[1].fc.weight)
    assert not torch.equal(one[1].fc.weight, other[1].fc.weight)
    assert torch.equal(torch.get_rng_state(), state)
