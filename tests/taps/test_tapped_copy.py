"""A copy that returns its taps, compiled: the same numbers as a recorder gives, for every kind of tap."""

import copy
import shutil
from dataclasses import dataclass

import kdzoo  # noqa: F401  registers the small networks with timm
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdengine import TapError
from kdengine.taps import Anatomy, Recorder
from kdengine.taps.tapped_copy import TappedCopy

SIZE = (3, 32, 32)


class Functional(nn.Module):
    """Calls its activations as functions, one layer twice, and returns a mapping."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.again = nn.Conv2d(8, 8, 3, padding=1)
        self.inner = Inner()
        self.fc = nn.Linear(8, 10)

    def forward(self, x):
        x = F.relu(self.conv(x))
        x = self.again(F.max_pool2d(x, 2))
        x = self.inner(self.again(F.relu(x, inplace=True)))
        return {"aux": x.mean(), "logits": self.fc(x.mean((2, 3)))}


class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm2d(8)

    def forward(self, x):
        return F.gelu(self.bn(x)) + x


@dataclass
class Pair:
    first: Tensor
    second: Tensor


class Several(nn.Module):
    """A block gives several tensors."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2, 1)
        self.block = Split()
        self.fc = nn.Linear(4, 10)

    def forward(self, x):
        pair = self.block(self.conv(x))
        return self.fc((pair.first + pair.second).mean((2, 3))), pair.first.mean()


class Split(nn.Module):
    def forward(self, x):
        return Pair(*x.chunk(2, 1))


def vit():
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, embed_dim=24, num_heads=2, num_classes=10
    )


NETWORKS = {
    "resnet8": lambda: timm.create_model("resnet8", num_classes=10),
    "vit": vit,
    "functional": Functional,
    "several": Several,
}
TAPS = {
    "resnet8": [
        *("stem", "stages", "stages.pre", "embedding", "logits", "layer2", "layer2.0:in", "layer1.0.act1:in", "layer1.0.bn1"),
        *("layer*.0.conv2", "fc", "fc:in", "conv1:in"),
    ],
    "vit": ["stages", "embedding", "logits", "blocks.0.attn", "blocks.1.mlp:in", "blocks.*.norm1"],
    "functional": [
        "conv",
        "relu()#0",
        "relu():in#1",
        "again#0",
        "again:in#1",
        "inner.gelu()",
        "inner.bn",
        "logits",
        "embedding",
    ],
    "several": ["conv", "block", "logits"],
}


@pytest.fixture(autouse=True)
def fresh():
    torch.compiler.reset()
    torch.manual_seed(0)


def made(name):
    network = NETWORKS[name]()
    return network, Anatomy.of(network, SIZE).resolve_all(TAPS[name])


def compiled(copied, backend="aot_eager"):
    return torch.compile(copied, backend=backend, dynamic=False)


def both(network, points, images, train=True, stop=False, backend="aot_eager"):
    """The traces of a compiled copy and of a recorder on a twin, and both networks after a backward pass through them."""
    twin = copy.deepcopy(network)
    network.train(train)
    twin.train(train)
    copied = TappedCopy(network, points, stop)
    ours = copied.trace(images, *compiled(copied, backend)(images))
    with Recorder(twin, points, stop=stop) as recorder:
        theirs = recorder(images)
    for trace in (ours, theirs):
        sum(trace[name].square().mean() for name in points).backward()
    return ours, theirs, network, twin


def check(ours, theirs, network, twin):
    assert list(ours) == list(theirs)
    for name in theirs:
        assert ours[name].dtype == torch.float32
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-5)
    for (name, one), other in zip(network.named_parameters(), twin.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None), name
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-5)
    for one, other in zip(network.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "vit")) for name in NETWORKS])
def test_every_kind_of_tap_gives_the_numbers_and_gradients_of_a_recorder(name):
    network, points = made(name)
    ours, theirs, *networks = both(network, points, torch.randn(4, *SIZE))
    torch.testing.assert_close(ours.logits, theirs.logits, rtol=1e-4, atol=1e-5)
    check(ours, theirs, *networks)
    if name == "resnet8":
        assert any(point.overwritten for point in points.values())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_inductor_gives_them_too():
    network, points = made("functional")
    check(*both(network, points, torch.randn(4, *SIZE), backend="inductor"))


@pytest.mark.parametrize("train", [True, False])
def test_a_forward_ends_at_the_deepest_tap_and_what_comes_after_keeps_its_statistics(train):
    network = NETWORKS["resnet8"]()
    points = Anatomy.of(network, SIZE).resolve_all(["stage1", "stage2.pre"])
    ours, theirs, *networks = both(network, points, torch.randn(4, *SIZE), train, stop=True)
    assert not ours.has_logits
    assert not theirs.has_logits
    check(ours, theirs, *networks)
    later = [int(module.num_batches_tracked) for path, module in networks[0].named_modules() if path == "layer3.0.bn1"]
    assert later == [0]
    assert networks[0].layer3[0].conv1.weight.grad is None


def test_weights_and_buffers_are_those_of_the_network_even_after_it_got_others():
    network, points = made("resnet8")
    copied = TappedCopy(network.eval(), points)
    images = torch.randn(2, *SIZE)
    with torch.no_grad():
        network.fc.weight.zero_()
        network.bn1.register_buffer("running_var", torch.full((16,), 2.0))
        network.fc.bias = nn.Parameter(torch.arange(10.0))
        assert torch.equal(copied(images)[0], network(images))
    assert torch.equal(copied(images)[0][0], torch.arange(10.0))
    assert network.state_dict().keys() == NETWORKS["resnet8"]().state_dict().keys()


def test_the_copy_follows_the_mode_of_every_module():
    network, points = made("resnet8")
    copied = TappedCopy(network, points)
    network.eval()
    network.layer1.train()
    copied.follow()
    modes = [module.training for module in network.modules()]
    assert [module.training for module in copied.network.modules()] == modes
    assert any(modes)


def test_networks_of_one_kind_share_compiled_code():
    network, points = made("resnet8")
    images, counted = torch.randn(2, *SIZE), torch._dynamo.utils.counters["stats"]
    counted.clear()
    for lane in [network, copy.deepcopy(network), copy.deepcopy(network)]:
        with torch.no_grad():
            compiled(TappedCopy(lane, points))(images)
    assert counted["unique_graphs"] == 1
    fewer = dict(list(points.items())[:2])
    copied = TappedCopy(network, fewer)
    with torch.no_grad():
        assert set(copied.trace(images, *compiled(copied)(images))) == set(fewer)
    assert counted["unique_graphs"] == 2


def test_dropout_draws_anew_in_every_forward_and_the_seed_decides():
    network = nn.Sequential(nn.Flatten(), nn.Linear(3072, 64), nn.Dropout(0.5), nn.Linear(64, 10))
    points = Anatomy.of(network, SIZE).resolve_all(["2"])
    copied = TappedCopy(network, points)
    forward, images = compiled(copied), torch.randn(4, *SIZE)

    def dropped():
        return copied.trace(images, *forward(images))["2"] == 0

    torch.manual_seed(1)
    one, two = dropped(), dropped()
    torch.manual_seed(1)
    assert torch.equal(dropped(), one)
    assert not torch.equal(one, two)
    assert 0.25 < one.float().mean() < 0.75
    network.eval()
    copied.follow()
    assert not dropped().any()


def test_modules_that_cannot_be_watched_are_named():
    network, points = made("resnet8")
    network.layer1.register_forward_hook(lambda module, args, output: output + 1)
    with pytest.raises(TapError, match="'layer1' has forward hooks of its own"):
        TappedCopy(network, points)
    with pytest.raises(TapError, match="this one has no module 'act1'"):
        TappedCopy(NETWORKS["vit"](), points)
