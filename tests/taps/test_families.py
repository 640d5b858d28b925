"""Every family of timm: a small network of each is understood, on the meta device.

A family is a module of ``timm.models`` that registers networks.
"""

import re
from functools import cache
from importlib.util import find_spec

import pytest
import timm
import torch
from packaging.version import Version
from timm.models._registry import _module_to_models
from torch import nn

from kdengine.taps import Anatomy
from kdengine.testing.families import SMALLEST

pytestmark = pytest.mark.skipif(
    Version(timm.__version__) < Version("1.0.31"),
    reason="an older timm lacks some of these networks, and what it states of others",
)

OPTIONS = {"sequencer": {"layers": (1, 1, 1, 1)}}
"""A recurrent layer takes one step for each row and column, which is slow on the meta device."""

SIZES = {"byoanet": (256, 256), "deepseek_vit": (546, 546)}
"""Their own, as the one cuts every map into blocks of eight, and the other has places for one size only."""

WITHOUT_PADDING = {"inception_resnet_v2", "inception_v3", "inception_v4", "xception"}
"""Their convolutions lose the border of the map, so that it is smaller than the reduction which timm states."""

SEVERAL_HEADS = {"crossvit", "efficientvim"}
"""Their logits are the mean over several heads, each with an input of its own; timm states the sum of those widths."""

CLASSES = 100


@cache
def network_of(family):
    with torch.device("meta"):
        return timm.create_model(SMALLEST[family], num_classes=CLASSES, **OPTIONS.get(family, {}))


def size_of(family):
    """(rows, columns) of an image: not square where the network takes any, so that no grid is turned unseen."""
    config = network_of(family).pretrained_cfg
    native = config["input_size"][1:] if config.get("fixed_input_size") else (96, 128)
    return SIZES.get(family, native)


@cache
def anatomy_of(family):
    return Anatomy.of(network_of(family), (3, *size_of(family)))


def tensor_of(family, name):
    anatomy = anatomy_of(family)
    return anatomy.tensor(anatomy.canonical[name])


def stages_of(family):
    return [tensor_of(family, name) for name in anatomy_of(family).canonical if re.fullmatch(r"stage\d+", name)]


def listed(family):
    """What timm says of the stages; of more entries than stages, the first is the stem."""
    info = network_of(family).feature_info
    entries = list(getattr(info, "info", info))
    return entries[len(entries) - len(stages_of(family)) :]


def test_every_family_of_timm_is_here():
    known = {family for family in _module_to_models if find_spec(f"timm.models.{family}")}  # a zoo has modules too
    assert known <= set(SMALLEST)
    assert all(SMALLEST[family] in _module_to_models[family] for family in known)


def families(test):
    """Tries a test on every family of timm; 'make test' tries all of them on the same few, each of which is probed once."""
    known = [family for family in SMALLEST if family in _module_to_models]
    return pytest.mark.sample(8)(pytest.mark.parametrize("family", known)(test))


@families
def test_the_stages_are_maps_that_shrink(family):
    stages = stages_of(family)
    assert len(stages) >= 2
    assert all(stage.ndim == 4 and len(stage) == 2 for stage in stages)
    places = [stage.shape[2:].numel() for stage in stages]
    assert places == sorted(places, reverse=True)


@families
def test_the_stages_have_the_channels_and_the_size_that_timm_states(family):
    lost = 4 if family in WITHOUT_PADDING else 1
    for stage, stated in zip(stages_of(family), listed(family), strict=True):
        assert stage.shape[1] == stated["num_chs"]
        for found, whole in zip(stage.shape[2:], size_of(family), strict=True):
            assert abs(found - whole / stated["reduction"]) <= lost


@families
def test_the_stem_is_a_map_no_smaller_than_the_first_stage(family):
    stem, first = tensor_of(family, "stem"), stages_of(family)[0]
    assert stem.ndim == 4
    assert all(outer >= inner for outer, inner in zip(stem.shape[2:], first.shape[2:], strict=True))


@families
def test_before_the_activation_is_a_map_of_the_same_shape(family):
    shapes = [stage.shape for stage in stages_of(family)]
    assert [tensor_of(family, f"stage{number}.pre").shape for number in range(1, len(shapes) + 1)] == shapes


@families
def test_the_classifier_is_the_one_that_timm_names(family):
    model, path = network_of(family), anatomy_of(family).classifier
    said = model.get_classifier()
    heads = said if isinstance(said, (tuple, list)) else [said]
    assert dict(model.named_modules())[path] in {inner for head in heads for inner in head.modules()}


@families
def test_the_embedding_is_the_vector_that_the_last_linear_step_receives(family):
    model = network_of(family)
    classifier = dict(model.named_modules())[anatomy_of(family).classifier]
    last = [layer for layer in classifier.modules() if isinstance(layer, (nn.Linear, nn.Conv2d))][-1]
    width = last.in_features if isinstance(last, nn.Linear) else last.in_channels
    assert tensor_of(family, "embedding").shape == (2, width)
    assert (width == model.head_hidden_size) == (family not in SEVERAL_HEADS)


@families
def test_the_logits_are_one_number_for_each_class(family):
    assert tensor_of(family, "logits").shape == (2, CLASSES)
