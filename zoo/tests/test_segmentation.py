"""``seg:NAME``: a head for pixels behind any backbone."""

import doctest
import functools

import kdzoo.segmentation
import pytest
import timm
import torch
from kdzoo.segmentation import Intermediates, segmentation_network

from kdengine import Anatomy, ModelError, Recorder, Registry
from kdengine.networks.models import ModelSource
from kdengine.networks.weights import load_state_of_body
from kdengine.tasks.segmentation import Segmentation
from kdengine.testing.matrix import CLASSES, Pairing, make_network

SIZE = (3, 64, 64)
BACKBONES = {  # stages that must be found: channels and side
    "resnet8": [(16, 64), (32, 32), (64, 16)],
    "wrn_16_1": [(16, 64), (32, 32), (64, 16)],
    "cnn2": [(16, 32), (16, 16)],
    "resnet18": [(64, 16), (128, 8), (256, 4), (512, 2)],
    "mobilenetv4_conv_small": [(32, 16), (64, 8), (96, 4), (960, 2)],
    "efficientnet_b0": [(16, 32), (24, 16), (40, 8), (112, 4), (320, 2)],
    "convnext_atto": [(40, 16), (80, 8), (160, 4), (320, 2)],
    "vit_tiny_patch16_224": [(192, 4)] * 12,
    "swin_tiny_patch4_window7_224": [(96, 16), (192, 8), (384, 4), (768, 2)],
    "hiera_tiny_224": None,  # as many as the plain network has
    "tresnet_m": [(64, 16), (128, 8), (1024, 4), (2048, 2)],
}


@pytest.fixture(scope="module")
def registry():
    return Registry()


@pytest.fixture(scope="module")
def seg(registry):
    """A network of a spec on the meta device, for images of 64 x 64 and 5 classes; each is made once."""

    @functools.cache
    def make(spec):
        with torch.device("meta"):
            return ModelSource(f"seg:{spec}", {"num_classes": 5}, SIZE, registry).create(0)

    return make


def maps(network):
    seen = Anatomy.of(network, SIZE)
    return {name: (str(point), tuple(seen.tensor(point).shape[1:])) for name, point in seen.resolve("stages").items()}


@pytest.mark.sample(4)
@pytest.mark.parametrize("name", BACKBONES)
def test_every_pixel_gets_logits_and_the_stages_are_those_of_the_backbone(name, seg, registry):
    network = seg(name)
    seen = Anatomy.of(network, SIZE)
    assert seen.probe.logits.shape == (2, 5, 64, 64)
    assert seen.classifier == "head.classifier"
    found = [shape for _, shape in maps(network).values()]
    with torch.device("meta"):
        plain = ModelSource(f"timm:{name}", {"num_classes": 5}, SIZE, registry).create(0)
    assert found == [shape for _, shape in maps(plain).values()]
    if BACKBONES[name]:
        assert found == [(width, side, side) for width, side in BACKBONES[name]]
    assert seen.canonical.keys() >= ({"stem"} if "stem" in Anatomy.of(plain, SIZE).canonical else set())


@pytest.mark.parametrize("name", ["resnet8", "resnet18", "vit_tiny_patch16_224"])
def test_every_parameter_learns(name, registry):
    network = ModelSource(f"seg:{name}@width=8", {"num_classes": 5}, SIZE, registry).create(0)
    network(torch.randn(2, *SIZE)).square().sum().backward()
    assert [path for path, value in network.named_parameters() if value.grad is None] == []


@pytest.mark.parametrize("name", ["resnet8", "resnet18"])
def test_a_stage_holds_what_the_plain_backbone_computes(name, registry):
    network = ModelSource(f"seg:{name}", {"num_classes": 5}, SIZE, registry).create(0).eval()
    plain = timm.create_model(name, num_classes=7).eval()
    part = load_state_of_body(network, plain.state_dict(), "FILE", "the student")
    assert part.left_out == ("fc",)
    assert str(part).endswith(", without 'fc'; all else starts fresh")
    images = torch.randn(2, *SIZE)
    traces = []
    for each in (network, plain):
        with torch.no_grad(), Recorder(each, ["stage1", "stage-1"]) as recorder:
            traces.append(recorder(images))
    for tap in ("stage1", "stage-1"):
        assert torch.equal(traces[0][tap], traces[1][tap])


@pytest.mark.parametrize(
    ("name", "first"), [("ghostnet_050", "blocks.8"), ("cait_xxs24_224", "cls_token"), ("efficientnet_b0", "conv_head")]
)
def test_layers_that_lead_to_the_head_alone_are_left_out(name, first, registry):
    with torch.device("meta"):
        plain = ModelSource(f"timm:{name}", {"num_classes": 5}, SIZE, registry).create(0)
        network = ModelSource(f"seg:{name}", {"num_classes": 5}, SIZE, registry).create(0)
    part = load_state_of_body(network, plain.state_dict(), "FILE", "the student")
    assert part.path == "backbone.model"
    assert part.left_out[0].startswith(first)


def test_weights_of_another_backbone_are_refused(registry):
    network = ModelSource("seg:resnet18", {"num_classes": 5}, SIZE, registry).create(0)
    for other in ("resnet34", "resnet8"):
        with pytest.raises(ModelError, match="do not match the student"):
            load_state_of_body(network, timm.create_model(other).state_dict(), "FILE", "the student")


def test_options_reach_the_head_and_the_backbone(seg):
    assert seg("resnet8@width=24").head.classifier.in_channels == 24
    assert seg("resnet18@output_stride=16").backbone.model.layer4[0].conv2.dilation == (2, 2)
    assert seg("vit_tiny_patch16_224").backbone.indices == [2, 5, 8, 11]
    assert len(seg("resnet18").head.laterals) == 4


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("teacher", "student"),
    [
        ("torchvision:fcn_resnet50", "seg:resnet8"),
        ("torchvision:deeplabv3_mobilenet_v3_large", "torchvision:lraspp_mobilenet_v3_large"),
        ("seg:vit_tiny_patch16_224", "seg:mobilenetv4_conv_small"),
        ("seg:resnet8", "seg:resnet8"),
    ],
)
def test_methods_that_read_maps_train_on_networks_for_pixels(teacher, student):
    task = Segmentation(CLASSES)
    networks = (make_network(spec, 64, meta=False, task=task) for spec in (teacher, student))
    pair = Pairing(*networks, 64, meta=False, task=task)
    methods = ("at", "fitnet", "cwd", "mgd", "sp")
    assert pair.attempts(*methods) == dict.fromkeys(methods)


def test_images_of_other_sizes_and_channels_are_taken(registry):
    with torch.device("meta"):
        network = ModelSource("seg:resnet18", {"num_classes": 5}, (1, 50, 75), registry).create(0)
        assert network(torch.zeros(2, 1, 50, 75)).shape == (2, 5, 50, 75)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("seg:resnt18", "timm has no network 'resnt18'; did you mean resnet18"),
        ("seg:resnet8@width=0", "width is the number of the head's channels, at least 1, got 0"),
        ("seg:resnet8@widht=3", "widht"),
    ],
)
def test_a_spec_that_cannot_be_built_says_why(spec, said, registry):
    with pytest.raises(ModelError, match=said):
        ModelSource(spec, {"num_classes": 5}, SIZE, registry).create(0)


def test_checkpointing_changes_no_gradient():
    torch.manual_seed(0)
    network = segmentation_network("resnet18", 5, width=8)
    images, found = torch.randn(2, *SIZE), []
    for on in (False, True):
        network.set_grad_checkpointing(on)
        network.zero_grad()
        network(images).square().mean().backward()
        found.append(network.backbone.model.layer1[0].conv1.weight.grad.clone())
    assert isinstance(network.backbone, Intermediates)
    torch.testing.assert_close(*found)


def test_the_example_of_which_maps_are_read():
    assert doctest.testmod(kdzoo.segmentation).failed == 0
