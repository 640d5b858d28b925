import torch
import torch.nn.functional as F
from kdzoo.shufflenetv1 import shuffle


def test_the_parameters_are_as_many_as_published(count):
    assert count("shufflenetv1", 100) == 949_258


def test_shuffling_takes_the_groups_in_turn():
    channels = torch.arange(6.0).view(1, 6, 1, 1)
    assert shuffle(channels, 2).flatten().tolist() == [0, 3, 1, 4, 2, 5]
    assert shuffle(channels, 3).flatten().tolist() == [0, 2, 4, 1, 3, 5]
    x = torch.randn(2, 12, 3, 3)
    assert torch.equal(shuffle(x, 3), torch.nn.ChannelShuffle(3)(x))
    assert torch.equal(shuffle(x, 1), x)


def test_blocks_compute_their_formula(lively, compute):
    """The first block joins its new channels to the averaged old ones, the second adds."""
    network = lively("shufflenetv1")
    layers = compute(network)
    for stage, width, groups in ((1, 24, 1), (2, 240, 3)):
        x = start = torch.randn(2, width, 6, 6, dtype=torch.float64).relu()
        for block in (0, 1):
            path, halves = f"layer{stage}.{block}", block == 0
            split = groups if halves else 3
            out = layers.norm(layers.conv(x, f"{path}.conv1", groups=split), f"{path}.bn1").clamp(min=0)
            out = torch.nn.ChannelShuffle(split)(out)
            out = layers.conv(out, f"{path}.conv2", stride=2 if halves else 1, padding=1, groups=out.shape[1])
            out = layers.norm(out, f"{path}.bn2").clamp(min=0)
            out = layers.norm(layers.conv(out, f"{path}.conv3", groups=3), f"{path}.bn3")
            old = F.avg_pool2d(x, 3, stride=2, padding=1) if halves else x
            x = (torch.cat((out, old), 1) if halves else out + old).clamp(min=0)
        torch.testing.assert_close(getattr(network, f"layer{stage}")[:2](start.clone()), x)
