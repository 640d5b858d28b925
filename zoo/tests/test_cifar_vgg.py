import pytest
import timm
import torch
import torch.nn.functional as F


@pytest.mark.parametrize(("name", "parameters", "depth"), [("vgg8", 3_965_028, 8), ("cifar_vgg13", 9_462_180, 13)])
def test_the_parameters_are_as_many_as_published(name, parameters, depth, count, shell):
    assert count(name, 100) == parameters
    # the published depth counts the two linear layers that small images do without
    layers = [module for module in shell(name).modules() if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear))]
    assert len(layers) == depth - 2


def test_the_network_is_the_published_one_layer_by_layer(lively, image, compute):
    network = lively("vgg8", num_classes=7)
    layers, x = compute(network), image()
    logits = network(x)
    x = layers.norm(layers.conv(x, "stem.0", padding=1), "stem.1").clamp(min=0)
    for stage in (1, 2, 3, 4):
        pooled = stage < 4
        x = F.max_pool2d(x, 2) if pooled else x
        x = layers.conv(x, f"layer{stage}.{int(pooled)}", padding=1)
        x = layers.norm(x, f"layer{stage}.{int(pooled) + 1}").clamp(min=0)
    torch.testing.assert_close(logits, layers.linear(x.mean((2, 3)), "fc"))


def test_a_fresh_classifier_begins_as_the_first_one():
    network = timm.create_model("vgg8")
    network.reset_classifier(100)
    for each in (network, timm.create_model("vgg8", num_classes=100)):
        assert each.fc.weight.std().item() == pytest.approx(0.01, rel=0.05)
        assert each.fc.bias.abs().max() == 0
