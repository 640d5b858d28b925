import copy

import pytest
import timm
import torch
from torch import nn

from kdengine import Anatomy
from kdengine.config.settings import TrainSettings
from kdengine.testing import tiny_pair
from kdengine.training.folding import Folding
from kdengine.training.runtime import Runtime
from kdengine.training.teacher import FrozenTeacher

IMAGES = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
EXACT, HALF = (Runtime("cpu", precision, alone=True) for precision in ("fp32", "bf16"))
ROUNDING = 0.03
"""Of bf16, over the layers of a small network, as a share of the largest value."""


def lived_in(network):
    """With statistics, scales and shifts that do something, in ``eval()``."""
    torch.manual_seed(0)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_()
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
    return network.eval()


def points(network, *names):
    anatomy = Anatomy.of(network, (3, 32, 32))
    return {name: point for text in names for name, point in anatomy.resolve(text).items()}


def differ(one, other):
    return float((one - other).abs().max() / other.abs().max())


@pytest.fixture(scope="module", params=["tiny", "resnet10t", "mobilenetv3_small_050"])
def network(request):
    made = tiny_pair()[0] if request.param == "tiny" else timm.create_model(request.param, num_classes=10)
    return lived_in(made)


def taps_of(network):
    """Stages and logits, and what convolutions give and normalisations take in and give."""
    kinds = nn.Conv2d | nn.BatchNorm2d
    paths = [path for path, module in network.named_modules() if isinstance(module, kinds)][:8]
    return points(network, "stages", "logits", *paths, *(f"{path}:in" for path in paths))


def test_every_tap_of_a_folded_teacher_tells_the_truth(network):
    taps = taps_of(network)
    folded, plain = (FrozenTeacher(copy.deepcopy(network), HALF, TrainSettings(fold_teacher=folds)) for folds in (True, False))
    one, other = folded.trace(IMAGES, taps), plain.trace(IMAGES, taps)
    exact = FrozenTeacher(copy.deepcopy(network), EXACT, TrainSettings(fold_teacher=False)).trace(IMAGES, taps)
    assert folded._folding is not None
    assert plain._folding is None
    for name in taps:
        assert differ(one[name], exact[name]) < max(ROUNDING, 2 * differ(other[name], exact[name])), name
    hidden = taps.keys() - folded._folding.shown(taps).keys()
    assert hidden, "what convolutions give by themselves is not there any more"
    assert all(torch.equal(one[name], other[name]) for name in hidden)


def test_what_a_tap_shows_does_not_depend_on_the_other_taps(network):
    teacher, taps = FrozenTeacher(network, HALF), taps_of(network)
    together = teacher.trace(IMAGES, taps)
    for name, point in taps.items():
        assert torch.equal(teacher.trace(IMAGES, {name: point})[name], together[name]), name


@pytest.mark.parametrize("runtime", [HALF, EXACT], ids=["bf16", "fp32"])
def test_the_teacher_itself_stays_as_it_is(runtime):
    network = lived_in(tiny_pair()[0])
    before = copy.deepcopy(network.state_dict())
    teacher = FrozenTeacher(network, runtime)
    teacher.trace(IMAGES, points(network, "logits"))
    teacher.check_unchanged()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in teacher._folding.network.modules())
    unfolded = FrozenTeacher(network, EXACT, TrainSettings(fold_teacher=False))
    assert torch.equal(unfolded.trace(IMAGES, points(network, "logits"))["logits"], network(IMAGES))


def test_in_float32_every_tap_is_that_of_the_teacher_up_to_the_last_digits(network):
    taps = taps_of(network)
    folded, plain = (
        FrozenTeacher(copy.deepcopy(network), EXACT, TrainSettings(fold_teacher=folds)).trace(IMAGES, taps)
        for folds in (True, False)
    )
    for name in taps:
        assert differ(folded[name], plain[name]) < 1e-5, name
    assert not torch.equal(folded["logits"], plain["logits"])


def test_the_folded_convolutions_hold_the_weights_that_autocast_would_make_of_them(network):
    halved, kept = (Folding.of(network, IMAGES, dtype).network for dtype in (torch.bfloat16, None))
    assert torch.bfloat16 in {weight.dtype for weight in halved.parameters()}
    with HALF.autocast():
        assert torch.equal(halved(IMAGES), kept(IMAGES))


class Twice(nn.Module):
    """Reads a convolution besides its normalisation, or runs it twice."""

    def __init__(self, again):
        super().__init__()
        self.conv, self.norm, self.again = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), again

    def forward(self, x):
        given = self.conv(x)
        other = self.conv(x + 1) if self.again else given
        return (self.norm(given) + other).mean((2, 3))


@pytest.mark.parametrize("again", [False, True])
def test_a_convolution_that_is_read_elsewhere_is_not_folded(again):
    assert Folding.of(lived_in(Twice(again)), IMAGES) is None


class WholeBatches(nn.Sequential):
    """Takes batches of one size."""

    def forward(self, x):
        return super().forward(x.view(8, 3, 32, 32))


def test_a_network_that_takes_whole_batches_only_runs_as_it_is():
    network = lived_in(WholeBatches(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    assert torch.equal(FrozenTeacher(network, EXACT).trace(IMAGES, {}).logits, network(IMAGES))


def test_on_a_device_without_values_nothing_is_folded():
    assert Folding.of(lived_in(tiny_pair()[0]).to("meta"), IMAGES.to("meta")) is None


def test_a_network_without_normalisation_is_not_copied():
    assert Folding.of(nn.Sequential(nn.Flatten(), nn.Linear(3072, 2)).eval(), IMAGES) is None
