import pytest
import torch
from torch import nn

from kdengine.shipping.peak_memory import peak_bytes, weight_bytes

IMAGES = torch.zeros(2, 3, 10, 10)
ONE = IMAGES.numel() * 4


class Keeps(nn.Module):
    """Needs its first result until the end."""

    def forward(self, images):
        first = images + 1
        second = first + 1
        third = second + 1
        return first + third


class Drops(nn.Module):
    """Needs only the latest result."""

    def __init__(self, layers):
        super().__init__()
        self.layers = layers

    def forward(self, images):
        for _ in range(self.layers):
            images = images + 1
        return images


def test_only_what_lives_at_once_counts():
    assert peak_bytes(Keeps(), IMAGES) == 5 * ONE
    assert peak_bytes(Drops(1), IMAGES) == 2 * ONE
    assert peak_bytes(Drops(9), IMAGES) == 3 * ONE


def test_weights_count_and_views_and_writing_in_place_do_not():
    network = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.ReLU(inplace=True), nn.Flatten(), nn.Unflatten(1, (4, 10, 10)))
    assert weight_bytes(network) == 48
    assert peak_bytes(network, IMAGES) == 48 + ONE + 2 * 4 * 100 * 4


def test_shared_weights_count_once_and_more_images_need_more():
    layer = nn.Linear(8, 8)
    assert weight_bytes(nn.Sequential(layer, layer)) == weight_bytes(layer) == 72 * 4
    assert peak_bytes(layer, torch.zeros(64, 8)) > peak_bytes(layer, torch.zeros(1, 8))


@pytest.mark.parametrize("view", [IMAGES[:1], IMAGES.permute(0, 2, 3, 1)], ids=["part", "layout"])
def test_what_the_caller_holds_counts_once(view):
    assert peak_bytes(nn.Identity(), view) == ONE
