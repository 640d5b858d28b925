import pytest
import torch
from torch import nn

from kdengine import ModelError
from kdengine.networks.inputs import ImageSpec, Preprocess
from kdengine.shipping.exportable import Exportable

GIVEN = ImageSpec((3, 20, 12), (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
OWN = ImageSpec((3, 20, 12), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


class Flat(nn.Module):
    """Shows what it receives."""

    def forward(self, images):
        return {"loss": torch.zeros(1), "logits": images.flatten(1)}


@pytest.mark.parametrize("wanted", [GIVEN, OWN, ImageSpec((3, 9, 17), OWN.mean, OWN.std), ImageSpec((3, 41, 12))], ids=str)
def test_plain_images_reach_the_network_as_in_training(wanted):
    preprocess = Preprocess(GIVEN, wanted)
    plain = torch.rand(2, 3, 20, 12, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (GIVEN.mean, GIVEN.std))
    expected = preprocess((plain - mean) / std)
    module = Exportable(Flat(), preprocess)
    assert module.input_size == (3, 20, 12)
    assert torch.allclose(module(plain), expected.flatten(1), atol=2e-5)
    raw = Exportable(Flat(), preprocess, raw=True)
    assert raw.input_size == wanted.size
    assert torch.equal(raw(expected), expected.flatten(1))


def test_an_unknown_normalisation_can_only_be_left_out():
    preprocess = Preprocess.none((3, 8, 8))
    with pytest.raises(ModelError, match="--raw"):
        Exportable(Flat(), preprocess)
    assert Exportable(Flat(), preprocess, raw=True).mean is None
