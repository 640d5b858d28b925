import numpy as np
import torch
from torch import nn

from kdengine import Adapter


def maps(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_an_adapter_is_a_linear_map_at_every_place_and_a_normalisation():
    adapter, given = Adapter(3, 5), maps(2, 3, 4, 4)
    weight = adapter.mix.weight.detach().numpy()[:, :, 0, 0]
    mixed = np.einsum("bchw,dc->bdhw", given.numpy(), weight)
    mean, variance = mixed.mean((0, 2, 3), keepdims=True), mixed.var((0, 2, 3), keepdims=True)
    assert np.allclose(adapter(given).detach(), (mixed - mean) / np.sqrt(variance + 1e-5), atol=1e-5)
    assert sum(value.numel() for value in adapter.parameters()) == 3 * 5 + 2 * 5


def test_one_image_with_one_place_is_normalised_by_the_running_statistics():
    adapter = Adapter(3, 5)
    found = adapter(maps(1, 3, 1, 1))
    assert found.shape == (1, 5, 1, 1)
    assert torch.allclose(found, adapter.mix(maps(1, 3, 1, 1)) / (1 + 1e-5) ** 0.5)
    assert torch.equal(adapter.norm.running_mean, torch.zeros(5))


def test_equal_widths_need_none():
    assert isinstance(Adapter.between(4, 4), nn.Identity)
    assert isinstance(Adapter.between(4, 5), Adapter)
