import copy

import pytest
import torch
from torch import nn

from kdengine import Anatomy, Recorder
from kdengine.networks.models import count_parameters
from kdengine.taps.backbone import Backbone, modules_behind
from kdengine.testing import tiny_pair, vit_pair

SIZE = (3, 32, 32)


class Widening(nn.Module):
    """A convolution and normalisation behind the last stage, and a classifier that reshapes what they give if asked."""

    def __init__(self, strict):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU())
        self.wide = nn.Conv2d(4, 9, 1)
        self.fc = nn.Linear(9, 5)
        self.strict = strict

    def forward(self, x):
        x = self.wide(self.stem(x)).mean((2, 3))
        return self.fc(x.reshape(-1, 9) if self.strict else x)


def cut(network, tap):
    anatomy = Anatomy.of(network, SIZE)
    (point,) = anatomy.resolve(tap).values()
    behind = modules_behind(network, anatomy, point, SIZE)
    return Backbone(copy.deepcopy(network), point, behind), behind


@pytest.mark.parametrize(
    ("network", "tap", "behind"),
    [
        (tiny_pair()[0], "stage-1", ["fc"]),
        (tiny_pair()[0], "stages.0", ["fc", "stages.1", "stages.2"]),
        (Widening(strict=False), "stem", ["fc", "wide"]),
        (Widening(strict=True), "stem", ["fc"]),  # the forward does not get through without the convolution
    ],
)
def test_a_network_up_to_a_tap_keeps_only_what_runs_before_it(network, tap, behind):
    network.eval()
    images, before = torch.randn(2, *SIZE), copy.deepcopy(network.state_dict())
    backbone, left_out = cut(network, tap)
    assert left_out == behind
    kept = sum(count_parameters(network.get_submodule(path)) for path in behind)
    assert count_parameters(backbone) == count_parameters(network) - kept
    with Recorder(network, [tap]) as recorder:
        assert torch.equal(backbone(images), recorder(images)[tap])
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_transformer_is_cut_behind_a_block():
    teacher, _ = vit_pair()
    _, left_out = cut(teacher, "stage2")
    assert {"net.blocks.2", "net.blocks.3", "net.norm"} <= set(left_out)
    assert not any(path.startswith(("net.blocks.0", "net.blocks.1")) for path in left_out)
