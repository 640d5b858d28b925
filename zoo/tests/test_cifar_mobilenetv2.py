import pytest
import torch


def by_arithmetic(factor, expansion, classes):
    """Every convolution and normalisation of the topology, counted one by one."""
    before = int(32 * factor)
    total = 3 * before * 9 + 2 * before
    groups = [(1, 16, 1), *((expansion, *group) for group in ((24, 2), (32, 3), (64, 4), (96, 3), (160, 3), (320, 1)))]
    for times, channels, blocks in groups:
        width = int(channels * factor)
        for _ in range(blocks):
            inner = times * before
            total += before * inner + 2 * inner + 9 * inner + 2 * inner + inner * width + 2 * width
            before = width
    last = int(1280 * max(factor, 1))
    return total + before * last + 2 * last + last * classes + classes


def test_the_parameters_are_as_many_as_published(count):
    assert count("cifar_mobilenetv2_half", 100) == by_arithmetic(0.5, 6, 100) == 812_836


@pytest.mark.parametrize(("width", "expansion"), [(1.0, 6), (1.5, 2)])
def test_other_widths_and_expansions_can_be_chosen(width, expansion, count):
    assert count("cifar_mobilenetv2_half", 10, width=width, expansion=expansion) == by_arithmetic(width, expansion, 10)


def test_blocks_compute_their_formula(lively, compute):
    """The first block of the second stage halves the size, the next one adds its input."""
    network = lively("cifar_mobilenetv2_half")
    layers = compute(network)
    x = start = torch.randn(2, 12, 8, 8, dtype=torch.float64)
    for block, stride in ((0, 2), (1, 1)):
        path = f"layer2.{block}"
        channels = layers.state[f"{path}.conv2.weight"].shape[0]
        assert channels == 6 * x.shape[1]
        out = layers.norm(layers.conv(x, f"{path}.conv1"), f"{path}.bn1").clamp(min=0)
        out = layers.conv(out, f"{path}.conv2", stride=stride, padding=1, groups=channels)
        out = layers.norm(out, f"{path}.bn2").clamp(min=0)
        out = layers.norm(layers.conv(out, f"{path}.conv3"), f"{path}.bn3")
        x = out + x if block == 1 else out
    torch.testing.assert_close(network.layer2[:2](start), x)
    assert (x < 0).any()  # a linear bottleneck


def test_a_residual_needs_one_width_and_one_size(shell):
    network = shell("cifar_mobilenetv2_half")
    blocks = {path: module.residual for path, module in network.named_modules() if type(module).__name__ == "InvertedResidual"}
    assert len(blocks) == 17
    assert [path for path, residual in blocks.items() if not residual] == [
        "layer1.0",
        "layer1.1",
        "layer2.0",
        "layer3.0",
        "layer3.4",
        "layer4.0",
        "layer4.3",
    ]
