import pytest
import timm
import torch
import torch.nn.functional as F


@pytest.mark.parametrize(("classes", "parameters"), [(10, 13_082), (100, 105_332)])
def test_the_parameters_are_as_many_as_published(classes, parameters, count):
    assert count("cnn2", classes) == parameters


@pytest.mark.parametrize("widths", [(8, 16), (32, 64)])
def test_the_widths_can_be_chosen(widths, count):
    first, second = widths
    convolutions = 3 * first * 9 + first + first * second * 9 + second
    assert count("cnn2", 10, widths=widths) == convolutions + 2 * first + 2 * second + 64 * second * 10 + 10


def test_two_widths_are_needed():
    with pytest.raises(ValueError, match="unpack"):
        timm.create_model("cnn2", widths=(16, 16, 16))


def test_the_network_is_the_published_one_layer_by_layer(lively, image, compute):
    network = lively("cnn2")
    layers, x = compute(network), image()
    logits = network(x)
    for conv, norm in (("conv1", "layer1.0"), ("layer2.conv", "layer2.bn")):
        x = F.max_pool2d(layers.norm(layers.conv(x, conv, padding=1), norm).clamp(min=0), 2)
    torch.testing.assert_close(logits, layers.linear(x.flatten(1), "fc"))
