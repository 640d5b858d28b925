import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from kdengine.taps.attention import AttentionWatch
from kdengine.taps.probe import probe


def attends(function):
    with AttentionWatch() as watch:
        function(torch.zeros(2, 6, 4))
    return watch.attends


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.scaled_dot_product_attention(x, x, x),
        lambda x: nn.MultiheadAttention(4, 2, batch_first=True).eval()(x, x, x),
        lambda x: nn.TransformerEncoderLayer(4, 2, 8, batch_first=True).eval()(x),
        lambda x: (x @ x.mT).softmax(dim=-1) @ x,
        lambda x: nn.Softmax(dim=2)(x @ x.mT) @ x,
        lambda x: torch.softmax(input=x @ x.mT, dim=-1) @ x,
    ],
)
def test_attention_is_noticed_however_it_is_written(function):
    assert attends(function)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.softmax(dim=1),  # weighs branches or channels
        lambda x: x.mean(1, keepdim=True).softmax(dim=-1) * x,  # one map of weights for an image
        lambda x: x[:, 0].softmax(dim=-1),  # probabilities of classes
        lambda x: x.sigmoid() * x,
    ],
)
def test_a_gate_is_not_attention(function):
    assert not attends(function)


@pytest.mark.parametrize(("name", "expected"), [("test_vit", True), ("resnest14d", False)])
def test_the_probe_tells_whether_a_network_attends(name, expected):
    with torch.device("meta"):
        network = timm.create_model(name)
    assert probe(network, (3, 160, 160)).attends is expected
