import pytest
import timm
import torch

COUNTS = {  # parameters with 10 and 100 classes, and layers besides the projections
    "cifar_resnet50": (23_520_842, 23_705_252, 50),
    "resnet71": (8_015_018, 8_107_268, 71),
    "resnet98": (2_831_578, 2_877_748, 98),
}


@pytest.mark.parametrize("name", COUNTS)
def test_the_parameters_are_as_many_as_published_and_the_name_tells_the_layers(name, count, shell):
    ten, hundred, depth = COUNTS[name]
    assert (count(name, 10), count(name, 100)) == (ten, hundred)
    layers = [path for path, module in shell(name).named_modules() if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear))]
    assert len([path for path in layers if "downsample" not in path]) == depth


def test_dropout_has_no_parameters_so_the_resnet_50_without_it_counts_the_same(count):
    assert count("cifar_resnet50", 100, block_drop=0.0, drop_rate=0.0) == COUNTS["cifar_resnet50"][1]


@pytest.mark.parametrize("stage", [1, 2])
def test_a_block_computes_its_formula(stage, lively, compute):
    """The first block of a stage has a projection, the second none."""
    network = lively("resnet98")
    layers, name = compute(network), f"layer{stage}"
    stride = 1 if stage == 1 else 2
    x = start = torch.randn(2, 16 if stage == 1 else 64, 6, 6, dtype=torch.float64)
    for block in range(2):
        path, step = f"{name}.{block}", stride if block == 0 else 1
        out = layers.norm(layers.conv(x, f"{path}.conv1"), f"{path}.bn1").clamp(min=0)
        out = layers.norm(layers.conv(out, f"{path}.conv2", stride=step, padding=1), f"{path}.bn2").clamp(min=0)
        out = layers.norm(layers.conv(out, f"{path}.conv3"), f"{path}.bn3")
        if block == 0:
            x = layers.norm(layers.conv(x, f"{path}.downsample.0", stride=step), f"{path}.downsample.1")
        x = (out + x).clamp(min=0)
    torch.testing.assert_close(getattr(network, name)[:2](start.clone()), x)


def test_three_values_in_ten_are_dropped_behind_every_normalisation_and_before_the_classifier():
    torch.manual_seed(0)
    network = timm.create_model("resnet98").train()
    rates = {path: module.p for path, module in network.named_modules() if isinstance(module, torch.nn.Dropout)}
    assert set(rates.values()) == {0.3}
    assert len(rates) == 3 * (6 + 8 + 12 + 6) + 1
    block, seen = network.layer1[1], []
    for drop in (block.drop1, block.drop2, block.drop3):
        drop.register_forward_hook(lambda _, args, out: seen.append((out == 0).double().mean().item()))
    block(torch.randn(2, 64, 32, 32))
    assert seen == pytest.approx([0.3] * 3, abs=0.02)


def test_dropout_can_be_turned_off():
    network = timm.create_model("resnet98", block_drop=0.0, drop_rate=0.0)
    assert {module.p for module in network.modules() if isinstance(module, torch.nn.Dropout)} == {0.0}
