"""Kernels that do several things at once: what they compute, what taps see, and what is left as it is."""

import copy
import threading
from collections import Counter

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from kdengine.taps import Anatomy, Recorder
from kdengine.training.folding import Folding
from kdengine.training.fusing import fuse, fusible, unfuse

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
BOOKKEEPING = {"_to_copy", "detach", "_reorder_convolution_weight", "alias"}
pytestmark = pytest.mark.skipif(not fusible(IMAGES, None), reason="this build of torch has no such kernels")


class Block(nn.Module):
    """A convolution, perhaps a sum, and an activation, written in one of the ways in which people write them."""

    def __init__(self, way="module", activation=None):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 3, 3, padding=1, groups=3 if way == "grouped" else 1)
        self.act = activation or nn.ReLU(inplace=True)
        self.way = way

    def forward(self, x):
        out = self.conv(x)
        match self.way:
            case "added":
                out = out + x
            case "added in place":
                out += x
            case "added to the shortcut":
                out = torch.add(x, out)
            case "function":
                return F.relu(out)
            case "sum only":
                return out + x
        return self.act(out)


WAYS = ["module", "grouped", "added", "added in place", "added to the shortcut", "function", "sum only"]
ACTIVATIONS = [nn.ReLU6(), nn.LeakyReLU(0.3), nn.SiLU(), nn.Hardswish(), nn.Sequential(nn.Dropout(0.5), nn.SiLU())]


def both(block):
    """A block as it is, and fused."""
    fused = copy.deepcopy(block.eval())
    assert fuse(fused, ["conv"]) == [fused]
    return block, fused


class Operations(TorchDispatchMode):
    """Counts the operations that run."""

    def __init__(self):
        super().__init__()
        self.ran = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.ran[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def operations(network, images):
    """How often which operations run."""
    with torch.no_grad(), Operations() as mode:
        network(images)
    return mode.ran


@pytest.mark.parametrize("block", [*map(Block, WAYS), *(Block(activation=each) for each in ACTIVATIONS)], ids=str)
def test_a_fused_block_computes_what_the_block_does(block):
    block, fused = both(block)
    with torch.no_grad():
        torch.testing.assert_close(fused(IMAGES), block(IMAGES), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(fused(IMAGES[:1]), block(IMAGES[:1]), rtol=1e-5, atol=1e-6)
    assert operations(fused, IMAGES).keys() - BOOKKEEPING == {"_convolution_pointwise"}


def test_in_autocast_it_computes_in_half_precision():
    if not fusible(IMAGES, torch.bfloat16):
        pytest.skip("this processor has no bf16")
    block, fused = both(Block("added"))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        mine = fused(IMAGES)
    assert mine.dtype == torch.bfloat16
    torch.testing.assert_close(mine.float(), block(IMAGES), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("tap", ["conv", "act:in", "act"])
@pytest.mark.parametrize("way", ["module", "added", "added in place"])
def test_a_tap_sees_what_a_kernel_skips(way, tap):
    block, fused = both(Block(way, nn.ReLU()))
    points = Anatomy.of(block, (3, 16, 16)).resolve(tap)
    with torch.no_grad(), Recorder(block, points) as one, Recorder(fused, points) as other:
        torch.testing.assert_close(other(IMAGES)[tap], one(IMAGES)[tap], rtol=1e-5, atol=1e-6)


def test_a_tap_changes_nothing_behind_it():
    block, fused = both(Block("added"))
    with torch.no_grad(), Recorder(fused, Anatomy.of(block, (3, 16, 16)).resolve("act:in")) as recorder:
        assert torch.equal(recorder(IMAGES).logits, fused(IMAGES))


def test_it_can_be_undone():
    block, fused = both(Block("added"))
    unfuse([fused])
    assert torch.equal(fused(IMAGES), block(IMAGES))
    assert "forward" not in vars(fused)


class ReadTwice(Block):
    """Reads what the convolution gives besides the activation."""

    def forward(self, x):
        out = self.conv(x)
        return self.act(out) + out.mean()


class ByValue(Block):
    """Decides by the values of its input."""

    def forward(self, x):
        return self.act(self.conv(x)) if x.mean() > 0 else x


class Optional(Block):
    """Has an argument that is not passed."""

    def forward(self, x, mask=None):
        return self.act(self.conv(x)) if mask is None else x * mask


class Twisted(Block):
    """Adds to the shortcut in place, which something else reads afterwards."""

    def forward(self, x):
        shortcut = x + 1
        shortcut += self.conv(x)
        return self.act(shortcut) + shortcut


@pytest.mark.parametrize("kind", [ReadTwice, ByValue, Optional, Twisted])
def test_what_cannot_be_followed_is_computed_as_before(kind):
    block = kind(activation=nn.ReLU()).eval()
    fused = copy.deepcopy(block)
    fuse(fused, ["conv"])
    with torch.no_grad():
        for images in (IMAGES, -IMAGES):
            torch.testing.assert_close(fused(images), block(images), rtol=1e-5, atol=1e-6)


class Careful(Block):
    """Computes in float32 whatever the precision of the run."""

    def forward(self, x):
        with torch.autocast("cpu", enabled=False):
            return self.act(self.conv(x.float()))


def test_a_forward_that_chooses_its_precision_stays():
    assert not fuse(Careful(), ["conv"])


def test_networks_of_other_threads_run_as_they_are_while_a_forward_is_followed():
    other, seen = nn.Conv2d(3, 2, 3), []

    class Interrupted(Block):
        def forward(self, x):
            thread = threading.Thread(target=lambda: seen.append(other(IMAGES)))
            thread.start()
            thread.join()
            return self.act(self.conv(x))

    assert fuse(Interrupted(), ["conv"])
    assert torch.equal(seen[0], other(IMAGES))


@pytest.mark.parametrize("padding", [{"padding": "same"}, {"padding": 1, "padding_mode": "reflect"}])
def test_a_convolution_with_another_padding_stays(padding):
    block = nn.Sequential(nn.Conv2d(3, 3, 3, **padding), nn.ReLU())
    assert not fuse(block, ["0"])


class GrowingSum(nn.Module):
    """Adds a map to one number per channel, which makes a map of it; no kernel does that."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU()

    def forward(self, x):
        return self.act(self.norm(self.conv(x.mean((2, 3), keepdim=True))) + x).mean((2, 3))


def test_a_network_whose_sum_no_kernel_computes_is_folded_only():
    torch.manual_seed(0)
    network = GrowingSum().eval()
    with torch.no_grad():
        folded = Folding.of(network, IMAGES).network
        assert not any("forward" in vars(module) for module in folded.modules())
        torch.testing.assert_close(folded(IMAGES), network(IMAGES), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["torchvision:resnet18", "resnet10t", "mobilenetv2_035", "regnetx_002", "densenet121"])
def test_networks_that_people_use_are_fused(name):
    torch.manual_seed(0)
    if name.startswith("torchvision:"):
        network = torchvision.models.get_model(name.partition(":")[2], weights=None).eval()
    else:
        network = timm.create_model(name).eval()
    images = torch.randn(2, 3, 32, 32)
    folded = Folding.of(network, images).network
    with torch.no_grad():
        torch.testing.assert_close(folded(images), network(images), rtol=1e-3, atol=1e-4)
    before, after = operations(network, images), operations(folded, images)
    assert after["_convolution_pointwise"] == before["convolution"] - after["convolution"] > 0
    assert sum(after.values()) < sum(before.values())
