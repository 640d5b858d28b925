import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from kdengine.taps.double_backward import twice_differentiable


def second_derivative(function, x):
    x = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(function(x).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x)
    return second


@pytest.mark.parametrize(
    "function", [F.hardsigmoid, nn.Hardsigmoid(), nn.Hardsigmoid(inplace=True)], ids=["function", "module", "inplace"]
)
def test_a_hard_sigmoid_can_be_differentiated_twice(function):
    gate = lambda x: function(x * 1.0) * x.square()  # noqa: E731
    x = torch.linspace(-5, 5, 41, dtype=torch.float64) + 0.05
    with pytest.raises(RuntimeError, match="not implemented"):
        second_derivative(gate, x)
    with twice_differentiable():
        found = second_derivative(gate, x)
        value = function(x.clone())
    inside = (x > -3) & (x < 3)
    first = torch.where(inside, (3 * x**2 + 6 * x) / 6, torch.where(x >= 3, 2 * x, 0.0))
    slope = torch.where(inside, (6 * x + 6) / 6, torch.where(x >= 3, 2.0, 0.0))
    assert torch.allclose(found, 2 * first * slope)
    assert torch.allclose(value, ((x + 3) / 6).clamp(0, 1))


def test_attention_can_be_differentiated_twice():
    query = torch.randn(1, 2, 5, 8, generator=torch.Generator().manual_seed(0))
    with twice_differentiable():
        found = second_derivative(lambda x: F.scaled_dot_product_attention(x, query, query), query)
    assert found.abs().max() > 0


def inputs(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


Q, K, V, FEW = inputs(2, 4, 7, 8), inputs(2, 4, 7, 9)[..., 1:], inputs(2, 4, 8, 8)[:, :, 1:], inputs(2, 2, 7, 8)
BAND = torch.ones(7, 7).tril(2).triu(-1).bool()


@pytest.mark.parametrize(
    ("more", "keys"),
    [
        ({}, K),
        ({"attn_mask": BAND}, K),
        ({"attn_mask": inputs(7, 7)}, K),
        ({"is_causal": True}, K),
        ({"scale": 0.3}, K),
        ({"dropout_p": 0.5}, K),
        ({"enable_gqa": True}, FEW),
    ],
    ids=["plain", "mask", "bias", "causal", "scale", "dropout", "fewer keys"],
)
def test_attention_has_the_numbers_of_torchs_own_unfused_one(more, keys):
    values = V if keys is K else FEW
    found = []
    for way in (twice_differentiable(), sdpa_kernel(SDPBackend.MATH)):
        with torch.random.fork_rng(devices=[]), way:
            torch.manual_seed(1)
            found.append(F.scaled_dot_product_attention(Q, keys, values, **more))
    assert torch.equal(*found)


@pytest.mark.parametrize("mask", [None, BAND], ids=["plain", "mask"])
def test_attention_of_torchs_module_can_be_differentiated_twice_with_the_numbers_of_its_unfused_one(mask):
    attention, x = nn.MultiheadAttention(8, 2), inputs(7, 3, 8)
    function = lambda x: attention(x, x, x, need_weights=False, attn_mask=mask)[0]  # noqa: E731
    with pytest.raises(RuntimeError, match="not implemented"):
        second_derivative(function, x)
    found = []
    for way in (twice_differentiable(), sdpa_kernel(SDPBackend.MATH)):
        with way:
            found.append((function(x), second_derivative(function, x)))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_torchs_choice_of_attention_is_left_alone_for_the_other_threads():
    with twice_differentiable():
        assert torch.backends.cuda.flash_sdp_enabled()
        assert torch.backends.cuda.mem_efficient_sdp_enabled()


def test_outside_nothing_is_replaced():
    with twice_differentiable():
        pass
    x = torch.linspace(-4, 4, 9)
    assert torch.equal(F.hardsigmoid(x), torch.ops.aten.hardsigmoid(x))
    with pytest.raises(RuntimeError, match="not implemented"):
        second_derivative(lambda x: F.hardsigmoid(x) * x, x)
