import pytest
import timm
import torch
from torch import nn

from kdengine import ModelError, SettingsError
from kdengine.config.settings import TrainSettings
from kdengine.tasks import Classification
from kdengine.training.lane_module import LaneModule
from kdengine.training.optimizer import make_optimizer, make_schedule
from kdengine.training.parameter_groups import parameter_groups


def vit():
    return timm.create_model(
        "vit_tiny_patch16_224", num_classes=4, img_size=32, patch_size=8, depth=3, embed_dim=24, num_heads=2
    )


@pytest.fixture(scope="module")
def module():
    return LaneModule(vit(), {}, Classification(4), classifier="head")


def rates(module, **settings):
    """Learning rate and weight decay of each of the student's parameters after the first step of a schedule."""
    settings = TrainSettings(**{"lr": 1.0, "weight_decay": 0.1, "schedule": "multistep", **settings})
    optimizer = make_optimizer(parameter_groups(module, settings), settings)
    make_schedule(optimizer, settings, 10, 5).step_update(0)
    names = {id(value): name for name, value in module.student.named_parameters()}
    found = {
        names[id(one)]: (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for one in group["params"]
    }
    assert found.keys() == set(names.values())
    return found


def test_by_default_all_parameters_are_in_one_list(module):
    groups = parameter_groups(module, TrainSettings())
    assert [id(value) for value in groups] == [id(value) for value in module.parameters()]


def test_each_layer_learns_more_slowly_than_the_next(module):
    found = rates(module, layer_decay=0.5)
    layers = [["cls_token", "pos_embed", "patch_embed.proj.weight"], ["blocks.0.mlp.fc1.weight"], ["blocks.2.norm1.bias"]]
    measured = [{found[name][0] for name in names} for names in layers]
    assert measured == [{0.5**4}, {0.5**3}, {0.5**1}]
    assert found["head.weight"] == (1.0, 0.1)


def test_norms_biases_and_what_the_network_names_can_be_left_without_weight_decay(module):
    found = rates(module, decay_norms_and_biases=False)
    without = {name for name, (_, decay) in found.items() if decay == 0}
    small = {name for name, value in module.student.named_parameters() if value.ndim <= 1}
    assert without == small | {"pos_embed", "cls_token"}
    assert {rate for rate, _ in found.values()} == {1.0}


def test_head_and_backbone_have_rates_of_their_own(module):
    found = rates(module, head_lr=3.0, backbone_lr=0.1)
    assert {name: rate for name, (rate, _) in found.items() if rate != 0.1} == {"head.weight": 3.0, "head.bias": 3.0}


def test_a_network_without_layers_or_without_a_classifier_is_refused():
    bare = LaneModule(nn.Linear(2, 2), {}, Classification(2))
    with pytest.raises(SettingsError, match=r"train\.layer_decay needs .*'group_matcher', but Linear does not"):
        parameter_groups(bare, TrainSettings(layer_decay=0.5))
    with pytest.raises(SettingsError, match=r"train\.head_lr and train\.backbone_lr need a network with a classifier"):
        parameter_groups(bare, TrainSettings(head_lr=2.0))


def test_a_network_without_parameters_to_train_is_refused():
    for network in (nn.Flatten(), nn.Linear(2, 2).requires_grad_(False)):
        with pytest.raises(ModelError, match=f"{type(network).__name__} has nothing to train"):
            parameter_groups(LaneModule(network, {}, Classification(2)), TrainSettings())


@pytest.mark.parametrize(
    ("names", "frozen"),
    [
        (("backbone",), lambda name: not name.startswith("head")),
        (("blocks.0", "patch_embed"), lambda name: name.startswith(("blocks.0.", "patch_embed."))),
    ],
)
def test_frozen_modules_are_not_trained_and_stay_in_evaluation(names, frozen):
    module = LaneModule(vit(), {}, Classification(4), classifier="head", frozen=names)
    still = {name for name, value in module.student.named_parameters() if not value.requires_grad}
    assert still == {name for name, _ in module.student.named_parameters() if frozen(name)}
    module.train()
    modes = {name: part.training for name, part in module.student.named_modules() if not list(part.children())}
    assert modes["blocks.0.norm1"] is False
    assert modes["head"] is True
    module.frozen.release()
    assert all(value.requires_grad for value in module.student.parameters())


@pytest.mark.parametrize(
    ("names", "message"),
    [(("blocks.9",), "no module 'blocks.9'. Did you mean"), (("backbone", "head"), "leaves nothing of the network to train")],
)
def test_what_cannot_be_frozen_is_refused(names, message):
    with pytest.raises(SettingsError, match=message):
        LaneModule(vit(), {}, Classification(4), classifier="head", frozen=names)


def test_statistics_of_frozen_batch_normalisation_stay():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 2))
    module = LaneModule(network, {}, Classification(2), classifier="3", frozen=("backbone",)).train()
    module(torch.randn(4, 3, 8, 8) + 5, torch.zeros(4).long(), None, None)
    assert torch.equal(network[1].running_mean, torch.zeros(4))
