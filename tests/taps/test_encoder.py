"""Networks that label pixels: their encoder's stages, their classifier, their logits."""

import functools

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from kdengine.errors import TapError
from kdengine.taps import Anatomy, Recorder

SIZE = (3, 64, 64)


@functools.cache
def made(name, **options):
    with torch.device("meta"):
        factory = getattr(torchvision.models.segmentation, name)
        return factory(weights=None, weights_backbone=None, num_classes=5, **options)


def anatomy(name, **options):
    return Anatomy.of(made(name, **options), SIZE, name)


def stages(found):
    return {point.path: tuple(found.tensor(point).shape[1:]) for point in found.resolve("stages").values()}


def conv(width_in, width_out, stride=1):
    return nn.Sequential(nn.Conv2d(width_in, width_out, 3, stride, 1), nn.BatchNorm2d(width_out), nn.ReLU(inplace=True))


class UNet(nn.Module):
    """Side by side, without an encoder of its own: maps shrink, then grow again."""

    def __init__(self, kernel=1):
        super().__init__()
        self.down1, self.down2, self.down3 = conv(3, 8), conv(8, 16, 2), conv(16, 32, 2)
        self.up2, self.up1 = conv(32 + 16, 16), conv(16 + 8, 8)
        self.out = nn.Conv2d(8, 5, kernel, padding=kernel // 2)

    def forward(self, x):
        one = self.down1(x)
        two = self.down2(one)
        three = self.down3(two)
        two = self.up2(torch.cat([F.interpolate(three, scale_factor=2), two], 1))
        return self.out(self.up1(torch.cat([F.interpolate(two, scale_factor=2), one], 1)))


@pytest.mark.parametrize(
    ("name", "options", "found", "stem", "classifier"),
    [
        (
            "fcn_resnet50",
            {},
            {"backbone.layer1": (256, 16, 16), "backbone.layer4": (2048, 8, 8)},
            "backbone.maxpool",
            "classifier.4",
        ),
        (
            "deeplabv3_mobilenet_v3_large",
            {},
            {
                "backbone.1": (16, 32, 32),
                "backbone.3": (24, 16, 16),
                "backbone.6": (40, 8, 8),
                "backbone.16": (960, 4, 4),
            },
            "backbone.0",
            "classifier.4",
        ),
        (
            "lraspp_mobilenet_v3_large",
            {},
            {
                "backbone.1": (16, 32, 32),
                "backbone.3": (24, 16, 16),
                "backbone.6": (40, 8, 8),
                "backbone.16": (960, 4, 4),
            },
            "backbone.0",
            "classifier.high_classifier",
        ),
    ],
)
def test_the_stages_of_torchvisions_networks_are_those_of_their_encoder(name, options, found, stem, classifier):
    seen = anatomy(name, **options)
    assert stages(seen) == found
    assert seen.canonical["stem"].path == stem
    assert seen.classifier == classifier
    assert seen.probe.logits.shape == (2, 5, 64, 64)
    assert seen.probe.num_outputs == 5


def test_an_auxiliary_head_changes_neither_classifier_nor_stages():
    plain, aided = anatomy("fcn_resnet50"), anatomy("fcn_resnet50", aux_loss=True)
    assert (aided.classifier, stages(aided)) == (plain.classifier, stages(plain))


@pytest.mark.parametrize("kernel", [1, 3])
def test_the_stages_of_a_network_without_an_encoder_end_where_maps_grow_again(kernel):
    seen = Anatomy.of(UNet(kernel), SIZE, "unet")
    assert stages(seen) == {"down2": (16, 32, 32), "down3": (32, 16, 16)}
    assert seen.canonical["stem"].path == "down1"
    assert seen.classifier == "out"


def test_a_network_for_pixels_has_no_embedding_and_says_what_it_has():
    seen = anatomy("fcn_resnet50")
    assert seen.labels_pixels
    with pytest.raises(TapError, match=r"fcn_resnet50 has no 'embedding': it has stem, stage1, .*logits\."):
        seen.resolve("embedding")


def test_an_encoder_alone_still_has_an_embedding_and_no_classifier():
    seen = Anatomy.of(nn.Sequential(conv(3, 8), conv(8, 16, 2), nn.Conv2d(16, 32, 3, 2, 1)), SIZE)
    assert seen.classifier is None
    assert seen.tensor(seen.canonical["embedding"]).shape == (2, 32)


def test_what_a_recorder_reads_is_what_the_modules_compute():
    torch.manual_seed(0)
    options = {"weights": None, "weights_backbone": None, "num_classes": 5, "aux_loss": True}
    network = torchvision.models.segmentation.deeplabv3_mobilenet_v3_large(**options).eval()
    images = torch.randn(2, *SIZE)
    with torch.no_grad(), Recorder(network, ["stage2", "stage-1", "logits"]) as recorder:
        trace = recorder(images)
        assert torch.equal(trace.logits, network(images)["out"])
        assert torch.equal(trace["stage-1"], network.backbone(images)["out"])
    assert trace["stage2"].shape == (2, 24, 16, 16)


def test_the_main_output_is_taken_wherever_it_stands_in_a_record():
    class Swapped(UNet):
        def forward(self, x):
            logits = super().forward(x)
            return {"aux": logits[:, :1], "out": logits}

    assert Anatomy.of(Swapped(), SIZE).probe.logits.shape == (2, 5, 64, 64)
