"""What every network of the zoo promises."""

import copy
import functools
import sys

import pytest
import timm
import torch
from kdzoo import NETWORKS
from kdzoo.network import he_and_small_linear, he_fan_out

DEEP = ("resnet44", "resnet56", "resnet110")
"""What holds for resnet20 and resnet32 holds for these: they differ in depth alone."""
UNLIKE = [name for name in NETWORKS if name not in DEEP]


@functools.cache
def shown(name):
    """A network in training mode as made, two images, and its logits in evaluation mode."""
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=10)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        logits = network.eval()(x)
    return network.train(), x, logits


@pytest.mark.sample(8)
@pytest.mark.parametrize("name", UNLIKE)
def test_images_of_32_x_32_become_logits_whatever_the_classes_and_channels(name, kept, shell):
    assert kept(name)(torch.zeros(2, 3, 32, 32, device="meta")).shape == (2, 10)
    network = shell(name, num_classes=100, in_chans=1)
    assert network(torch.zeros(2, 1, 32, 32, device="meta")).shape == (2, 100)
    assert network.get_classifier().out_features == network.num_classes == 100


@pytest.mark.parametrize("name", UNLIKE)
def test_larger_images_are_taken_too(name, kept):
    assert kept(name)(torch.zeros(2, 3, 48, 64, device="meta")).shape == (2, 10)


@pytest.mark.parametrize("name", UNLIKE)
def test_feature_info_tells_the_real_maps_and_features_only_gives_them(name, kept, shell):
    network, extractor = kept(name), shell(name, features_only=True)
    assert extractor.feature_info.module_name() == [info["module"] for info in network.feature_info]
    maps = extractor(torch.zeros(2, 3, 32, 32, device="meta"))
    for info, (batch, channels, *sides) in zip(network.feature_info, [each.shape for each in maps], strict=True):
        assert (batch, channels) == (2, info["num_chs"])
        assert sides[0] == sides[1]
        assert sides[0] in (32 // info["reduction"], 32 // info["reduction"] - 1)  # unpadded pooling loses a row
    assert [info["module"] for info in network.feature_info if info["module"].startswith("layer")] == network.stages


@pytest.mark.parametrize("name", UNLIKE)
def test_the_classifier_receives_the_embedding(name, kept):
    network = kept(name)
    features = network.forward_features(torch.zeros(2, 3, 32, 32, device="meta"))
    assert features.shape[1] == network.num_features
    embedding = network.forward_head(features, pre_logits=True)
    assert embedding.shape == (2, network.head_hidden_size)
    assert network.get_classifier()(embedding).shape == (2, 10)


@pytest.mark.sample(8)
@pytest.mark.parametrize("name", UNLIKE)
def test_the_classifier_can_be_left_out_or_replaced(name, shell):
    network = shell(name, num_classes=0)
    assert network(torch.zeros(2, 3, 32, 32, device="meta")).shape == (2, network.head_hidden_size)
    features = torch.zeros(2, network.num_features, 2, 2, device="meta")
    for classes, kind in ((0, torch.nn.Identity), (3, torch.nn.Linear), (0, torch.nn.Identity)):
        with torch.device("meta"):
            network.reset_classifier(classes)
        assert network.num_classes == classes
        assert isinstance(network.get_classifier(), kind)
        assert network.forward_head(features).shape == (2, classes or network.head_hidden_size)


@pytest.mark.parametrize("name", UNLIKE)
def test_timm_is_told_the_right_names_of_the_end_layers(name, kept):
    network = kept(name)
    config = network.pretrained_cfg
    assert network.get_submodule(config["classifier"]) is network.get_classifier()
    assert network.get_submodule(config["first_conv"]).in_channels == 3
    assert config["input_size"] == (3, 32, 32)


@pytest.mark.sample(8)
@pytest.mark.parametrize("name", UNLIKE)
def test_evaluation_repeats_itself_and_survives_copies_and_state_dicts(name):
    network, x, logits = shown(name)
    twin = copy.deepcopy(network).eval()
    torch.manual_seed(1)
    other = timm.create_model(name, num_classes=10).eval()
    with torch.no_grad():
        assert torch.isfinite(logits).all()
        assert logits.std() > 0
        assert torch.equal(twin(x), logits)
        assert not torch.equal(other(x), logits)
        other.load_state_dict(network.state_dict())
        assert torch.equal(other(x), logits)


@pytest.mark.parametrize("name", UNLIKE)
def test_every_parameter_learns(name):
    network, x, _ = shown(name)
    network = copy.deepcopy(network)
    network(x).square().sum().backward()
    silent = [path for path, value in network.named_parameters() if value.grad is None or not torch.isfinite(value.grad).all()]
    assert silent == []


@pytest.mark.parametrize("name", ["resnet8", "vgg8", "cnn16", "cnn2"])
def test_dropout_acts_before_the_classifier_in_training_alone(name):
    torch.manual_seed(0)
    network = timm.create_model(name, drop_rate=0.5).eval()
    features = network.forward_features(torch.randn(2, 3, 32, 32))
    assert torch.equal(network.forward_head(features), network.forward_head(features))
    network.head_drop.train()
    assert not torch.equal(network.forward_head(features), network.forward_head(features))


@pytest.mark.slow
def test_the_zoo_works_with_timm_alone(fresh):
    assert not fresh["kdengine"]
    assert fresh["classes"] == 7
    assert set(fresh["after"]) - set(fresh["before"]) == set(NETWORKS)


def test_no_network_shadows_one_of_timms_own():
    """Whatever has taken its place in the registry, a name stays in the list of the module that registered it."""
    modules = [module for path, module in sys.modules.items() if path.startswith("timm.models.")]
    own = {name for module in modules for name in getattr(module, "__all__", ())}
    assert len(own & set(timm.list_models())) > 500
    assert own & set(NETWORKS) == set()
    assert len(set(NETWORKS)) == len(NETWORKS)


@pytest.mark.parametrize("name", ["resnet8", "cnn8"])
def test_pretrained_weights_are_refused_because_there_are_none(name):
    with pytest.raises(RuntimeError, match="No pretrained weights"):
        timm.create_model(name, pretrained=True)


def test_initial_weights_of_the_two_kinds():
    torch.manual_seed(0)
    convolution, linear = torch.nn.Conv2d(64, 128, 3), torch.nn.Linear(512, 100)
    for module in (convolution, linear):
        he_and_small_linear(module)
        assert module.bias.abs().max() == 0
    assert convolution.weight.std().item() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.02)
    assert linear.weight.std().item() == pytest.approx(0.01, rel=0.02)
    before = copy.deepcopy(linear.weight)
    he_fan_out(linear)
    assert torch.equal(linear.weight, before)
