import torch

from kdengine.training.guard import Guard

KINDS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float64: torch.int64, torch.int64: torch.int64}
ODD = [1.0, float("nan"), -0.0, float("inf"), -1e38, 1e-42]
"""Numbers whose bits a sum or a product of floats would not bring back."""


def bits(tensors):
    return [tensor.clone().view(KINDS[tensor.dtype]) for tensor in tensors]


def same(one, other):
    return all(map(torch.equal, one, other))


def step(guard, weights, value, new):
    guard.note(torch.tensor(value))
    with guard.undoing():
        for tensor in weights:
            tensor.fill_(new)
    return guard.verdict().is_fine


def test_from_the_first_step_that_is_not_finite_no_bit_of_the_weights_changes():
    weights = [torch.randn(2, 3, 2, 2).to(memory_format=torch.channels_last), torch.tensor(ODD), torch.ones(())]
    weights += [torch.randn(5).bfloat16(), torch.randn(4).double()]
    guard = Guard(weights, [])
    assert step(guard, weights, 1.0, 2.0)
    assert all(bool((tensor == 2).all()) for tensor in weights), "a step that is fine is left as it is"
    weights[1].copy_(torch.tensor(ODD))
    before = bits(weights)
    assert not step(guard, weights, float("inf"), 3e38)
    assert same(bits(weights), before)
    assert not step(guard, weights, 1.0, float("nan"))
    assert same(bits(weights), before), "nor does any later step change them"


def test_buffers_stay_as_the_forward_of_the_refused_step_left_them():
    buffers = [torch.zeros(3), torch.tensor(0)]
    guard = Guard([], buffers)
    for number, value in enumerate([1.0, float("nan"), 1.0, 1.0], 1):
        for buffer in buffers:
            buffer.fill_(number)
        step(guard, [], value, 0.0)
    assert same(buffers, [torch.full((3,), 2.0), torch.tensor(2)])
