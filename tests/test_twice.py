import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kdengine.twice import twice_differentiable


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


def test_outside_nothing_is_replaced():
    with twice_differentiable():
        pass
    x = torch.linspace(-4, 4, 9)
    assert torch.equal(F.hardsigmoid(x), torch.ops.aten.hardsigmoid(x))
    with pytest.raises(RuntimeError, match="not implemented"):
        second_derivative(lambda x: F.hardsigmoid(x) * x, x)
