import pytest
import timm
import torch
from timm.models.metaformer import GroupNorm1NoBias

from kdengine import ModelError, Registry
from kdengine.networks.factory import NetworkFactory
from kdengine.networks.inputs import ImageSpec

SIZE = (3, 32, 32)


def maker(seed=3, **kinds):
    return NetworkFactory(kinds, {"num_classes": 10}, ImageSpec(SIZE), Registry(), seed)


def test_specs_and_words_make_networks_with_fresh_weights_each_time():
    make = maker(student="resnet8", teacher="resnet14")
    networks = [make(spec) for spec in ("student", "student", "teacher", "resnet20")]
    blocks = [sum("conv1" in name for name, _ in network.named_modules()) for network in networks]
    assert blocks == [4, 4, 7, 10]
    assert not torch.equal(networks[0].conv1.weight, networks[1].conv1.weight)


def test_the_seed_decides_them_and_the_global_state_is_left_alone():
    state = torch.get_rng_state()
    one, other, third = (maker(seed, student="resnet8")("student").fc.weight for seed in (3, 3, 4))
    assert torch.equal(one, other)
    assert not torch.equal(one, third)
    assert torch.equal(torch.get_rng_state(), state)


def test_of_a_module_a_network_of_its_kind_is_made_and_the_module_stays_as_it_is():
    given = timm.create_model("resnet8", num_classes=10).eval().requires_grad_(False)
    before = {key: value.clone() for key, value in given.state_dict().items()}
    state = torch.get_rng_state()
    made = maker(teacher=given)("teacher")
    assert torch.equal(torch.get_rng_state(), state)
    assert made.training
    assert all(value.requires_grad for value in made.parameters())
    assert not torch.equal(made.conv1.weight, given.conv1.weight)
    assert all(torch.equal(value, before[key]) for key, value in given.state_dict().items())
    assert not given.training


def test_a_norm_of_timm_that_has_no_bias_is_reset_too():
    given = torch.nn.Sequential(GroupNorm1NoBias(3), torch.nn.Linear(4, 4))
    torch.nn.init.constant_(given[0].weight, 2)
    made = maker(teacher=given)("teacher")
    assert torch.equal(made[0].weight, torch.ones(3))
    assert made[0].bias is None


def test_an_unknown_network_is_refused():
    with pytest.raises(ModelError, match="resnet20"):
        maker()("resnet21")
