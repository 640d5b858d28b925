import pytest
import timm
import torch
import torch.nn.functional as F
from kdzoo import PlainCNN
from kdzoo.plain_cnn import ConvUnit

# parameters with 10 and 100 classes, means and variances of the normalisations, and the number its source prints
COUNTS = {
    "cnn8": (4_756_170, 4_767_780, 3_840, 4_760_010),
    "cnn12": (1_993_162, 2_004_772, 2_880, 1_996_042),
    "cnn16": (705_402, 717_012, 1_920, 707_322),
}


def by_arithmetic(convolutions, widths, classes):
    """Every convolution with its bias, every normalisation, and the two linear layers, counted one by one."""
    total, before = 0, 3
    for width in widths:
        for _ in range(convolutions):
            total += before * width * 9 + width + 2 * width
            before = width
    return total + before * 128 + 128 + 128 * classes + classes


@pytest.mark.parametrize("name", COUNTS)
def test_both_ways_of_counting_give_the_published_numbers(name, count, shell):
    ten, hundred, statistics, printed = COUNTS[name]
    assert (count(name, 10), count(name, 100)) == (ten, hundred)
    buffers = dict(shell(name).named_buffers())
    running = sum(value.numel() for path, value in buffers.items() if path.endswith(("running_mean", "running_var")))
    assert running == statistics
    assert count(name, 10) + running == printed


@pytest.mark.parametrize(("name", "convolutions", "widest"), [("cnn8", 2, 512), ("cnn12", 3, 256), ("cnn16", 4, 128)])
def test_the_name_tells_the_convolutions_and_the_arithmetic_agrees(name, convolutions, widest, count, shell):
    widths = [widest // 8, widest // 4, widest // 2, widest]
    assert count(name, 10) == by_arithmetic(convolutions, widths, 10)
    layers = [module for module in shell(name).modules() if isinstance(module, torch.nn.Conv2d)]
    assert len(layers) == int(name.removeprefix("cnn")) == 4 * convolutions


def test_the_hint_of_the_source_is_the_end_of_the_second_stage(shell):
    for name, channels in (("cnn8", 128), ("cnn12", 64), ("cnn16", 32)):
        maps = shell(name, features_only=True)(torch.zeros(2, 3, 32, 32, device="meta"))
        assert maps[1].shape == (2, channels, 7, 7)
        assert [each.shape[-1] for each in maps] == [15, 7, 3, 1]


@pytest.mark.parametrize("side", [32, 40])
def test_the_network_is_the_published_one_layer_by_layer(side, lively, image, compute):
    """Convolution, normalisation, ReLU, and only then the pooling, as the source has it."""
    network = lively("cnn12", num_classes=7)
    layers, x = compute(network), image(side=side)
    logits = network(x)
    for stage in range(1, 5):
        for unit in range(3):
            path = f"layer{stage}.{unit}"
            x = layers.norm(layers.conv(x, f"{path}.conv", padding=1), f"{path}.bn").clamp(min=0)
        x = F.max_pool2d(x, 3, 2)
    hidden = layers.linear(x.mean((2, 3)), "mlp.fc1").clamp(min=0)
    torch.testing.assert_close(logits, layers.linear(hidden, "mlp.fc2"))


def test_pooling_before_the_relu_changes_neither_values_nor_gradients(image):
    unit = ConvUnit(3, 5, pool=torch.nn.MaxPool2d(3, 2)).double()
    x = image(side=15).requires_grad_()
    usual = F.max_pool2d(F.relu(unit.bn(unit.conv(x))), 3, 2)
    assert (usual == 0).any()  # some windows hold nothing positive
    pattern = torch.randn_like(usual)
    (expected,) = torch.autograd.grad((usual * pattern).sum(), x)
    swapped = unit(x)
    (found,) = torch.autograd.grad((swapped * pattern).sum(), x)
    assert torch.equal(swapped, usual)
    torch.testing.assert_close(found, expected)


def test_the_teacher_alone_drops_single_values_behind_its_convolutions():
    torch.manual_seed(0)
    unit = timm.create_model("cnn8").layer1[0].train()
    seen = []
    unit.bn.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    unit(torch.randn(2, 3, 32, 32))
    assert (seen[0] == 0).double().mean().item() == pytest.approx(0.2, abs=0.01)
    assert not (seen[0] == 0).all((2, 3)).any()  # values, not channels
    assert {type(module).__name__: module.p for module in timm.create_model("cnn16").modules() if hasattr(module, "p")} == {
        "Dropout": 0.0
    }


def test_the_weights_have_the_names_of_the_source(shell):
    names = list(shell("cnn16").state_dict())
    assert names[:3] == ["layer1.0.conv.weight", "layer1.0.conv.bias", "layer1.0.bn.weight"]
    assert names[-4:] == ["mlp.fc1.weight", "mlp.fc1.bias", "mlp.fc2.weight", "mlp.fc2.bias"]
    assert {name.split(".")[-2] for name in names} == {"conv", "bn", "fc1", "fc2"}


def test_other_groups_can_be_built_by_hand():
    network = PlainCNN(1, (4, 8), num_classes=3)
    assert sum(value.numel() for value in network.parameters()) == by_arithmetic(1, (4, 8), 3)
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 3)
