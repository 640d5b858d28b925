"""What kdengine finds in the networks: stages, the maps before their last activation, stem and embedding."""

import functools

import pytest
from kdzoo import NETWORKS

from kdengine import Anatomy

STAGES = {  # channels and size of every stage
    "resnet8": [(16, 32), (32, 16), (64, 8)],
    "cifar_resnet18": [(64, 32), (128, 16), (256, 8), (512, 4)],
    "wrn_16_2": [(32, 32), (64, 16), (128, 8)],
    "wrn_40_1": [(16, 32), (32, 16), (64, 8)],
    "vgg8": [(128, 16), (256, 8), (512, 4), (512, 4)],
    "cifar_vgg13": [(128, 16), (256, 8), (512, 4), (512, 4)],
    "cifar_mobilenetv2_half": [(12, 16), (16, 8), (48, 4), (160, 2)],
    "shufflenetv1": [(240, 16), (480, 8), (960, 4)],
    "shufflenetv2": [(116, 16), (232, 8), (464, 4)],
    "cnn8": [(64, 15), (128, 7), (256, 3), (512, 1)],
    "cnn12": [(32, 15), (64, 7), (128, 3), (256, 1)],
    "cnn16": [(16, 15), (32, 7), (64, 3), (128, 1)],
    "cifar_resnet50": [(256, 32), (512, 16), (1024, 8), (2048, 4)],
    "resnet71": [(128, 32), (256, 16), (512, 8), (1024, 4)],
    "resnet98": [(64, 32), (128, 16), (256, 8), (512, 4)],
    "cnn2": [(16, 16), (16, 8)],
}
LINEAR = ("wrn_16_1", "wrn_16_2", "wrn_40_1", "wrn_40_2", "cifar_mobilenetv2_half")
"""Networks whose stages end without activation."""
WITHOUT_STEM = ("cnn8", "cnn12", "cnn16")
"""Networks whose first stage receives the image itself."""


@pytest.fixture(scope="module")
def anatomy(kept):
    return functools.cache(lambda name: Anatomy.of(kept(name), (3, 32, 32), name))


@pytest.mark.parametrize("name", STAGES)
def test_the_stages_are_those_of_the_papers(name, anatomy):
    found = anatomy(name)
    shapes = [tuple(found.tensor(point).shape) for point in found.resolve("stages").values()]
    assert shapes == [(2, channels, size, size) for channels, size in STAGES[name]]
    assert [point.path for point in found.resolve("stages").values()] == [f"layer{n + 1}" for n in range(len(STAGES[name]))]


@pytest.mark.parametrize("name", NETWORKS)
def test_before_the_activation_there_is_a_map_of_the_same_shape(name, anatomy):
    found = anatomy(name)
    for stage, point in found.resolve("stages").items():
        before = found.canonical[f"{stage}.pre"]
        assert found.tensor(before).shape == found.tensor(point).shape
        assert not found.rectified(before)
        assert found.rectified(point) == (name not in LINEAR)
        assert (before == point) == (name in LINEAR)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_embedding_is_what_the_classifier_receives(name, anatomy, kept):
    found, network = anatomy(name), kept(name)
    assert found.tensor(found.canonical["embedding"]).shape == (2, network.head_hidden_size)
    assert network.get_submodule(found.classifier) is network.get_classifier()


@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in WITHOUT_STEM])
def test_the_stem_is_what_the_first_stage_receives(name, anatomy, kept):
    stem, info = anatomy(name).canonical["stem"], kept(name).feature_info[0]
    assert stem.path == info["module"]
    assert anatomy(name).tensor(stem).shape[1] == info["num_chs"]


def test_activation_boundaries_of_a_wide_resnet_have_taps_of_their_own(anatomy):
    """The normalised maps that the next ReLU decides on, as AB's authors read them."""
    found = anatomy("wrn_16_2")
    for tap, stage in (("layer2.0.bn1", "stage1"), ("layer3.0.bn1", "stage2"), ("norm", "stage3")):
        (point,) = found.resolve(tap).values()
        assert found.tensor(point).shape == found.tensor(found.canonical[stage]).shape
