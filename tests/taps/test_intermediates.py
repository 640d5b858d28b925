import torch
from torch import nn

from kdengine.taps import Anatomy, Recorder
from kdengine.taps.intermediates import from_intermediates
from kdengine.taps.probe import probe


class Block(nn.Module):
    """Works on two branches at once, and returns both."""

    def __init__(self):
        super().__init__()
        self.small, self.large = nn.Linear(8, 8), nn.Linear(6, 6)

    def forward(self, small, large):
        return self.small(small), self.large(large)


class Branches(nn.Module):
    """Tokens in two branches, the second with a class token; its maps can be had from ``forward_intermediates`` alone."""

    def __init__(self, wrong=False):
        super().__init__()
        self.patch_small, self.patch_large = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(3, 6, 8, 8)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.fc = nn.Linear(6, 5)
        self.wrong = wrong

    def start(self, x):
        small, large = (patch(x).flatten(2).transpose(1, 2) for patch in (self.patch_small, self.patch_large))
        return small, torch.cat([large.mean(1, keepdim=True), large], 1)

    def forward(self, x):
        small, large = self.start(x)
        for block in self.blocks:
            small, large = block(small, large)
        return self.fc(large[:, 0])

    def forward_intermediates(self, x, indices=None, stop_early=True, intermediates_only=False):
        small, large = self.start(x)
        maps = []
        for block in self.blocks:
            small, large = block(small, large)
            maps.append(large[:, 1:].reshape(len(x), 2, 2, 6).permute(0, 3, 1, 2).contiguous())
        last = small.transpose(1, 2).unflatten(2, (4, 4))
        return [last * 2 if self.wrong else last, *maps, *([maps[0] + 1] if self.wrong else [])]


def found(model):
    return [
        (place.call.path, place.item, place.layout.prefix) for place in from_intermediates(model, probe(model, (3, 16, 16)))
    ]


def test_each_map_is_traced_to_the_call_and_the_tensor_that_it_came_from():
    assert found(Branches()) == [("blocks.2", None, 0), ("blocks.0", 1, 1), ("blocks.1", 1, 1), ("blocks.2", 1, 1)]


def test_a_map_that_was_computed_and_not_only_moved_is_not_understood():
    assert found(Branches(wrong=True)) == []


def test_a_network_that_cannot_be_asked_has_none():
    class Refuses(Branches):
        def forward_intermediates(self, x, **_):
            raise NotImplementedError

    assert found(Refuses()) == []
    assert found(nn.Sequential(nn.Conv2d(3, 4, 1))) == []


def test_one_tensor_of_several_is_recorded_and_cloned_where_it_is_overwritten():
    class Overwrites(Branches):
        def forward(self, x):
            small, large = self.start(x)
            for block in self.blocks:
                small, large = block(small, large)
                large *= 2
            return self.fc(large[:, 0])

    torch.manual_seed(0)
    model, images = Overwrites(), torch.rand(2, 3, 16, 16)
    anatomy = Anatomy.of(model, (3, 16, 16))
    point = anatomy.canonical["stage2"]
    assert (str(point), point.overwritten) == ("blocks.0[1]", True)
    assert anatomy.canonical["stage2.pre"] == point
    assert not anatomy.rectified(point)
    assert anatomy.tensor(point).shape == (2, 6, 2, 2)
    with torch.no_grad(), Recorder(model, ["stage2", "blocks.0"], anatomy, stop=True) as recorder:
        trace = recorder(images)
        small, large = model.blocks[0](*model.start(images))
    assert torch.equal(trace["stage2"], large[:, 1:].transpose(1, 2).reshape(2, 6, 2, 2))
    assert torch.equal(trace["blocks.0"], small)
