"""Every family of timm: a small network of each is understood, on the meta device.

A family is a module of ``timm.models`` that registers networks.
"""

import re
from functools import cache

import pytest
import timm
import torch
from timm.models._registry import _module_to_models
from torch import nn

from kdengine.taps import Anatomy

SMALLEST = {
    "beit": "beit_base_patch16_224",
    "byoanet": "halonet_h1",
    "byobnet": "test_byobnet",
    "cait": "cait_xxs24_224",
    "coat": "coat_tiny",
    "convit": "convit_tiny",
    "convmixer": "convmixer_768_32",
    "convnext": "test_convnext",
    "cpubone": "cpubone_nano",
    "crossvit": "crossvit_tiny_240",
    "csatv2": "csatv2",
    "cspnet": "cs3darknet_focus_s",
    "cspnext": "cspnext_tiny",
    "davit": "davit_tiny",
    "deepseek_vit": "deepseek_vit_412m",
    "deit": "deit_tiny_patch16_224",
    "densenet": "densenet121",
    "dla": "dla46x_c",
    "dpn": "dpn48b",
    "edgenext": "edgenext_xx_small",
    "efficientformer": "efficientformer_l1",
    "efficientformer_v2": "efficientformerv2_s0",
    "efficientnet": "test_efficientnet",
    "efficientvim": "efficientvim_m1",
    "efficientvit_mit": "efficientvit_b0",
    "efficientvit_msra": "efficientvit_m0",
    "eva": "eva02_tiny_patch14_224",
    "fasternet": "fasternet_t0",
    "fastvit": "fastvit_t8",
    "focalnet": "focalnet_tiny_srf",
    "gcvit": "gcvit_xxtiny",
    "gemma4_vit": "gemma4_vit_167m",
    "ghostnet": "ghostnet_050",
    "hardcorenas": "hardcorenas_b",
    "hgnet": "hgnetv2_b0",
    "hiera": "hiera_tiny_224",
    "hieradet_sam2": "sam2_hiera_tiny",
    "hrnet": "hrnet_w18_small",
    "iformer": "iformer_t",
    "inception_next": "inception_next_atto",
    "inception_resnet_v2": "inception_resnet_v2",
    "inception_v3": "inception_v3",
    "inception_v4": "inception_v4",
    "lcnetv2": "lcnetv2_small",
    "levit": "levit_128s",
    "lowformer": "lowformer_b0",
    "mambaout": "test_mambaout",
    "maxxvit": "test_coatnet",
    "metaformer": "poolformerv2_s12",
    "mlp_mixer": "gmlp_ti16_224",
    "mobilenetv3": "lcnet_035",
    "mobilenetv5": "mobilenetv5_base",
    "mobilevit": "mobilevit_xxs",
    "mvitv2": "mvitv2_tiny",
    "naflexvit": "naflexvit_base_patch16_parfac_gap",
    "nasnet": "nasnetalarge",
    "nest": "nest_tiny",
    "nextvit": "nextvit_small",
    "nfnet": "test_nfnet",
    "pit": "pit_ti_224",
    "pnasnet": "pnasnet5large",
    "pvt_v2": "pvt_v2_b0",
    "qwen3_vit": "qwen3_vit_88m",
    "rdnet": "rdnet_tiny",
    "regnet": "regnetx_002",
    "repghost": "repghostnet_050",
    "repvit": "repvit_m1",
    "res2net": "res2next50",
    "resnest": "resnest14d",
    "resnet": "test_resnet",
    "resnetv2": "resnetv2_18",
    "rexnet": "rexnet_100",
    "selecsls": "selecsls42",
    "senet": "legacy_seresnet18",
    "sequencer": "sequencer2d_s",
    "shvit": "shvit_s1",
    "sknet": "skresnet18",
    "starnet": "starnet_s050",
    "swiftformer": "swiftformer_xs",
    "swin_transformer": "swin_tiny_patch4_window7_224",
    "swin_transformer_v2": "swinv2_tiny_window16_256",
    "swin_transformer_v2_cr": "swinv2_cr_tiny_224",
    "tiny_vit": "tiny_vit_5m_224",
    "tnt": "tnt_s_legacy_patch16_224",
    "tresnet": "tresnet_m",
    "twins": "twins_svt_small",
    "vgg": "vgg11",
    "visformer": "visformer_tiny",
    "vision_transformer": "test_vit",
    "vision_transformer_hybrid": "vit_tiny_r_s16_p8_224",
    "vision_transformer_relpos": "test_vit_relpos",
    "vision_transformer_sam": "samvit_base_patch16_224",
    "vitamin": "vitamin_small_224",
    "volo": "volo_d1_224",
    "vovnet": "ese_vovnet19b_slim_dw",
    "xception": "legacy_xception",
    "xception_aligned": "xception41p",
    "xcit": "xcit_nano_12_p8_224",
}
"""The smallest network of each family that has a classifier."""

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
    assert set(_module_to_models) <= set(SMALLEST)
    assert all(name in _module_to_models[family] for family, name in SMALLEST.items() if family in _module_to_models)


families = pytest.mark.parametrize("family", [family for family in SMALLEST if family in _module_to_models])


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
