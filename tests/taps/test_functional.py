import pytest
import torch
import torch.nn.functional as F

from kdengine.taps.functional import FunctionalActivations, is_functional


def watched(function):
    seen = []

    def before(name, tensor):
        seen.append((name, tensor.clone()))

    def after(name, tensor):
        seen.append((name, tensor.clone()))

    with FunctionalActivations(before, after):
        result = function(torch.tensor([-1.0, 2.0]))
    return seen, result


@pytest.mark.parametrize(
    "function",
    [
        F.relu,
        torch.relu,
        torch.relu_,
        lambda x: F.relu(x, inplace=True),
        lambda x: F.relu(input=x),
        lambda x: torch.relu(input=x),
        lambda x: x.relu(),
        lambda x: x.relu_(),
    ],
)
def test_every_way_to_write_a_relu_is_seen_once_with_its_input_and_output(function):
    (before, after), result = watched(function)
    assert before[0] == after[0] == "relu()"
    assert before[1].tolist() == [-1.0, 2.0]
    assert after[1].tolist() == result.tolist() == [0.0, 2.0]


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (F.gelu, "gelu()"),
        (F.silu, "silu()"),
        (F.relu6, "relu6()"),
        (F.elu, "elu()"),
        (F.leaky_relu, "leaky_relu()"),
        (F.hardswish, "hardswish()"),
        (F.mish, "mish()"),
        (torch.tanh, "tanh()"),
        (lambda x: F.prelu(x, torch.ones(1)), "prelu()"),
    ],
)
def test_other_activations_are_seen_by_name(function, name):
    seen, _ = watched(function)
    assert [found for found, _ in seen] == [name, name]


@pytest.mark.parametrize("function", [torch.sigmoid, torch.exp, lambda x: x * 2, lambda x: F.dropout(x, 0.5)])
def test_gates_and_other_functions_pass_unseen(function):
    assert watched(function)[0] == []


def test_nothing_is_seen_after_the_context():
    seen, _ = watched(F.relu)
    F.relu(torch.zeros(1))
    assert len(seen) == 2


def test_functions_are_told_from_modules_by_their_ending():
    assert is_functional("layer1.0.relu()")
    assert not is_functional("layer1.0.relu")
