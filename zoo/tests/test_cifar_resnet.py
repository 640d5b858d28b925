import math

import kdzoo
import pytest
import timm
import torch
from kdzoo.cifar_resnet import NETWORKS

PUBLISHED = {  # parameters with 10 and 100 classes
    "resnet20": (272_474, 278_324),
    "resnet32": (466_906, 472_756),
    "resnet44": (661_338, 667_188),
    "resnet56": (855_770, 861_620),
    "resnet110": (1_730_714, 1_736_564),
    "resnet8x4": (1_210_410, 1_233_540),
    "resnet32x4": (7_410_730, 7_433_860),
    "cifar_resnet18": (11_173_962, 11_220_132),
}
ROUNDED = {20: (0.27, 0.28), 32: (0.47, 0.47), 44: (0.66, 0.67), 56: (0.86, 0.86), 110: (1.73, 1.74)}


def by_arithmetic(depth, widths, classes):
    """Every convolution, normalisation and projection of the topology, counted one by one."""
    stem, *stages = widths
    total = 3 * stem * 9 + 2 * stem
    before = stem
    for number, width in enumerate(stages):
        stride = 2 if number else 1
        for block in range((depth - 2) // (2 * len(stages))):
            total += before * width * 9 + width * width * 9 + 4 * width
            if block == 0 and (stride != 1 or before != width):
                total += before * width + 2 * width
            before = width
    return total + before * classes + classes


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_parameters_are_as_many_as_published(name, count):
    assert (count(name, 10), count(name, 100)) == PUBLISHED[name]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("classes", [10, 100])
def test_the_parameters_are_as_many_as_the_topology_says(name, classes, count):
    assert count(name, classes) == by_arithmetic(NETWORKS[name]["depth"], NETWORKS[name]["widths"], classes)


@pytest.mark.parametrize("depth", ROUNDED)
def test_millions_of_parameters_are_those_of_the_table_with_projection_shortcuts(depth, count):
    assert tuple(round(count(f"resnet{depth}", classes) / 1e6, 2) for classes in (10, 100)) == ROUNDED[depth]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_depth_counts_the_weighted_layers_besides_the_projections(name, kept):
    network = kept(name)
    layers = [path for path, module in network.named_modules() if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear))]
    assert len([path for path in layers if "downsample" not in path]) == NETWORKS[name]["depth"]


@pytest.mark.parametrize("name", ["resnet8", "resnet14", "resnet8x4"])
@pytest.mark.parametrize(("channels", "side", "batch"), [(3, 32, 2), (1, 32, 1), (3, 64, 1), (3, 33, 2)])
def test_feature_info_tells_the_real_maps_of_images_of_any_size(name, channels, side, batch):
    network = timm.create_model(name, num_classes=5, in_chans=channels).eval()
    x, shapes = torch.randn(batch, channels, side, side), {}
    for info in network.feature_info:
        module = network.get_submodule(info["module"])
        module.register_forward_hook(lambda _, args, out, key=info["module"]: shapes.update({key: out.shape}))
    assert network(x).shape == (batch, 5)
    assert [info["module"] for info in network.feature_info] == ["act1", "layer1", "layer2", "layer3"]
    for info in network.feature_info:
        expected = math.ceil(side / info["reduction"])
        assert shapes[info["module"]] == (batch, info["num_chs"], expected, expected)


def test_features_only_gives_the_stem_and_all_stages():
    extractor = timm.create_model("resnet8x4", features_only=True)
    assert [tuple(maps.shape[1:]) for maps in extractor(torch.zeros(1, 3, 32, 32))] == [
        (32, 32, 32),
        (64, 32, 32),
        (128, 16, 16),
        (256, 8, 8),
    ]
    assert extractor.feature_info.channels() == [32, 64, 128, 256]
    assert extractor.feature_info.reduction() == [1, 1, 2, 4]
    chosen = timm.create_model("resnet8", features_only=True, out_indices=(1, 3))
    assert [maps.shape[1] for maps in chosen(torch.zeros(1, 3, 32, 32))] == [16, 64]


def test_without_classes_the_network_returns_what_the_classifier_would_receive():
    network = timm.create_model("resnet8", num_classes=10).eval()
    bare = timm.create_model("resnet8", num_classes=0).eval()
    bare.load_state_dict({name: value for name, value in network.state_dict().items() if not name.startswith("fc")})
    x = torch.randn(2, 3, 32, 32)
    embedding = network.forward_head(network.forward_features(x), pre_logits=True)
    assert bare(x).shape == (2, 64)
    torch.testing.assert_close(bare(x), embedding)
    torch.testing.assert_close(network.get_classifier()(embedding), network(x))


def test_the_network_computes_blocks_with_a_projection_shortcut():
    """One block against its formula: relu(bn2(conv2(relu(bn1(conv1(x))))) + bn(project(x)))."""
    block = timm.create_model("resnet8").layer2[0].eval().double()
    x = torch.randn(2, 16, 6, 6, dtype=torch.float64).relu()

    def normalised(maps, norm):
        scale = norm.weight / (norm.running_var + 1e-5).sqrt()
        return (maps - norm.running_mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None]

    for norm in (block.bn1, block.bn2, block.downsample[1]):
        for value in (norm.running_mean, norm.running_var, norm.weight.data, norm.bias.data):
            value.uniform_(0.5, 1.5)
    deep = torch.conv2d(x, block.conv1.weight, stride=2, padding=1)
    deep = torch.conv2d(normalised(deep, block.bn1).clamp(min=0), block.conv2.weight, padding=1)
    shallow = torch.conv2d(x, block.downsample[0].weight, stride=2)
    expected = (normalised(deep, block.bn2) + normalised(shallow, block.downsample[1])).clamp(min=0)
    torch.testing.assert_close(block(x.clone()), expected)


def test_convolutions_begin_with_the_variance_of_he_over_their_outputs():
    torch.manual_seed(0)
    network = timm.create_model("resnet32x4")
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            wanted = math.sqrt(2 / (module.kernel_size[0] ** 2 * module.out_channels))
            values = module.weight.detach().double()
            error = 5 / math.sqrt(values.numel())  # five standard errors
            assert values.mean().abs() < error * wanted
            assert values.std().item() == pytest.approx(wanted, rel=error)
            assert values.abs().max() > 3 * wanted  # normal, not uniform
        if isinstance(module, torch.nn.BatchNorm2d):
            assert (module.weight.min(), module.weight.max(), module.bias.abs().max()) == (1, 1, 0)


@pytest.mark.parametrize("depth", [2, 9, 18, 34])
def test_a_depth_that_is_not_six_n_plus_two_is_refused(depth):
    with pytest.raises(ValueError, match=rf"depth must be 6n \+ 2 .*got {depth}"):
        kdzoo.CifarResNet(depth)


def test_any_depth_and_widths_can_be_built_by_hand():
    network = kdzoo.CifarResNet(26, (8, 16, 24, 40), num_classes=3)
    assert sum(value.numel() for value in network.parameters()) == by_arithmetic(26, (8, 16, 24, 40), 3)
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
