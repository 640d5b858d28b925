import kdzoo
import pytest
import timm
import torch

HUNDRED = {"wrn_16_1": 180_916, "wrn_16_2": 703_284, "wrn_40_1": 569_780, "wrn_40_2": 2_255_156}


def by_arithmetic(depth, widen, classes):
    """Every convolution and normalisation of the topology, counted one by one."""
    total, before = 3 * 16 * 9, 16
    for width in (16 * widen, 32 * widen, 64 * widen):
        for _ in range((depth - 4) // 6):
            total += 2 * before + before * width * 9 + 2 * width + width * width * 9
            total += before * width if before != width else 0
            before = width
    return total + 2 * before + before * classes + classes


@pytest.mark.parametrize("name", HUNDRED)
def test_the_parameters_are_as_many_as_published(name, count):
    assert count(name, 100) == HUNDRED[name]
    depth, widen = map(int, name.removeprefix("wrn_").split("_"))
    assert count(name, 10) == by_arithmetic(depth, widen, 10)


@pytest.mark.parametrize("name", ["wrn_16_1", "wrn_16_2"])
def test_the_network_is_the_published_one_layer_by_layer(name, lively, image, compute):
    network = lively(name, num_classes=7)
    layers, x = compute(network), image()
    logits = network(x)
    x = layers.conv(x, "conv1", padding=1)
    for stage, block in [(stage, block) for stage in (1, 2, 3) for block in (0, 1)]:
        path, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
        active = layers.norm(x, f"{path}.bn1").clamp(min=0)
        out = layers.conv(active, f"{path}.conv1", stride=stride, padding=1)
        out = layers.conv(layers.norm(out, f"{path}.bn2").clamp(min=0), f"{path}.conv2", padding=1)
        narrow = f"{path}.downsample.weight" not in layers.state
        x = out + (x if narrow else layers.conv(active, f"{path}.downsample", stride=stride))
    x = layers.norm(x, "norm").clamp(min=0).mean((2, 3))
    torch.testing.assert_close(logits, layers.linear(x, "fc"))


def test_the_classifier_begins_without_biases():
    assert timm.create_model("wrn_16_1").fc.bias.abs().max() == 0


@pytest.mark.parametrize("depth", [4, 15, 20])
def test_a_depth_that_is_not_six_n_plus_four_is_refused(depth):
    with pytest.raises(ValueError, match=rf"depth must be 6n \+ 4 .*got {depth}"):
        kdzoo.WideResNet(depth)
