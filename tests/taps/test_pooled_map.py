"""``embedding.map``: the map that a network pools into its embedding."""

import kdzoo  # noqa: F401  (registers the CIFAR networks with timm)
import pytest
import timm
import torch
from torch import nn

from kdengine import Recorder
from kdengine.taps import Anatomy
from kdengine.testing.families import SMALLEST


def record(model, side=64):
    with Recorder(model.eval(), ["embedding.map", "embedding", "stage-1"]) as recorder, torch.no_grad():
        trace = recorder(torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0)))
    return trace["embedding.map"], trace["embedding"], trace[f"stage{Anatomy.of(model, (3, side, side)).num_stages}"]


@pytest.mark.parametrize("family", ["efficientnet", "nfnet", "resnetv2", "rexnet", "xception_aligned"])
def test_its_mean_over_positions_is_the_embedding_though_layers_follow_the_last_stage(family):
    maps, embedding, stage = record(timm.create_model(SMALLEST[family], num_classes=10))
    torch.testing.assert_close(maps.mean((2, 3)), embedding)
    assert maps.shape != stage.shape or not torch.allclose(maps, stage)


def test_of_a_transformer_it_is_the_normalised_patches_without_the_class_token():
    model = timm.create_model("test_vit", num_classes=10, img_size=64).eval()
    maps, _, _ = record(model)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        patches = model.forward_features(images)[:, model.num_prefix_tokens :]
    torch.testing.assert_close(maps.flatten(2).transpose(1, 2), patches)


def test_where_nothing_follows_the_last_stage_it_is_the_same_tap():
    anatomy = Anatomy.of(timm.create_model("resnet8", num_classes=10), (3, 32, 32))
    assert anatomy.canonical["embedding.map"] == anatomy.canonical["stage3"]


class Headed(nn.Module):
    """A trunk, what pools it, what follows that, and a classifier of a width."""

    def __init__(self, pool, behind, width):
        super().__init__()
        self.stage1, self.stage2 = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 8, 3, 2, 1)
        self.pool, self.behind, self.fc = pool, behind, nn.Linear(width, 10)

    def forward(self, images):
        return self.fc(self.behind(self.pool(self.stage2(self.stage1(images).relu()))).flatten(1))


class AttentionPool(nn.Module):
    """Weighs the positions, by maps of its own that are as wide as the embedding."""

    def __init__(self):
        super().__init__()
        self.weigh, self.value = nn.Conv2d(8, 1, 1), nn.Conv2d(8, 8, 1)

    def forward(self, maps):
        return (self.value(maps) * self.weigh(maps).flatten(2).softmax(2).reshape(len(maps), 1, *maps.shape[2:])).sum((2, 3))


@pytest.mark.parametrize(
    ("pool", "behind", "width"),
    [
        (AttentionPool(), nn.Identity(), 8),  # maps inside the pooling are not those that it pools
        (nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 16, 1), 16),  # there is no map of the embedding's width
        (nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), 8),  # a pooled vector is no map of the trunk's size
    ],
)
def test_it_is_the_last_stage_where_what_follows_is_the_pooling(pool, behind, width):
    anatomy = Anatomy.of(Headed(pool, behind, width), (3, 16, 16))
    assert str(anatomy.canonical["embedding.map"]) == "stage2"


def test_a_network_without_a_classifier_pools_its_last_map():
    anatomy = Anatomy.of(timm.create_model("resnet8", num_classes=0), (3, 32, 32))
    assert anatomy.canonical["embedding.map"] == anatomy.canonical["stage3"]


def test_a_network_that_labels_pixels_has_none():
    network = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 5, 1), nn.Upsample(scale_factor=2))
    assert "embedding.map" not in Anatomy.of(network, (3, 16, 16)).canonical
