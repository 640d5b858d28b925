from math import log
from typing import ClassVar

import numpy as np
import pytest
import torch
from kdplugin_cwd import CWD, channel_loss

from kdengine import Engine, SettingsError, TapError
from kdengine.testing import DistillerContract, built, make_step

SHAPES = [
    ((1, 3, 2, 2), (1, 3, 2, 2)),
    ((2, 4, 3, 5), (2, 4, 3, 5)),  # oblong
    ((2, 3, 6, 6), (2, 3, 3, 3)),  # a larger student
    ((2, 2, 2, 4), (2, 2, 4, 4)),  # a larger teacher
]


class TestContract(DistillerContract):
    method = "cwd"
    at_equality: ClassVar = {"channels": 0.0}


def array(tensor):
    return tensor.detach().double().numpy()


def pooled(maps, size):
    rows, columns = maps.shape[2] // size[0], maps.shape[3] // size[1]
    return maps.reshape(*maps.shape[:2], size[0], rows, size[1], columns).mean((3, 5))


def shares(channel, temperature):
    raised = np.exp((channel - channel.max()) / temperature).ravel()
    return raised / raised.sum()


def loss_of(student, teacher, temperature=1.0):
    """The formula, channel by channel."""
    size = [min(sides) for sides in zip(student.shape[2:], teacher.shape[2:], strict=True)]
    student, teacher = pooled(student, size), pooled(teacher, size)
    total, (batch, channels) = 0.0, student.shape[:2]
    for b, c in np.ndindex(batch, channels):
        q, p = shares(student[b, c], temperature), shares(teacher[b, c], temperature)
        total += sum(p[i] * log(p[i] / q[i]) for i in range(len(p)))
    return temperature**2 * total / (batch * channels)


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("temperature", [1.0, 0.5, 4.0])
def test_the_loss_and_its_gradient_are_those_of_the_formula(shapes, temperature, leaf, slope, agree, gradient):
    student, teacher = leaf(*shapes[0], seed=1), leaf(*shapes[1], seed=2).detach()
    s, t = array(student), array(teacher)
    step = make_step(student={"stage3": student}, teacher={"stage3": teacher})
    loss = built(CWD(temperature=temperature, beta=3.0), step)(step)["channels"]
    agree(loss, 3 * loss_of(s, t, temperature))
    agree(gradient(loss, student), slope(lambda moved: 3 * loss_of(moved, t, temperature), s))


def test_other_widths_pass_a_1x1_convolution(leaf, slope, agree, gradient):
    student, teacher = leaf(2, 3, 3, 3, seed=1), leaf(2, 5, 3, 3, seed=2).detach()
    step = make_step(student={"stage3": student}, teacher={"stage3": teacher})
    method = built(CWD(), step)
    weight, bias = (array(value) for value in method.connectors[0].parameters())

    def expected(s):
        widened = np.einsum("dc,bchw->bdhw", weight[:, :, 0, 0], s) + bias[None, :, None, None]
        return 10 * loss_of(widened, array(teacher))

    loss = method(step)["channels"]
    agree(loss, expected(array(student)))
    agree(gradient(loss, student), slope(expected, array(student)))


def test_several_taps_are_summed_and_weighed_by_ten(leaf, agree):
    student = {f"stage{n}": leaf(2, n, 4, 4, seed=n) for n in (1, 2)}
    teacher = {f"stage{n}": leaf(2, n, 4, 4, seed=n + 5).detach() for n in (1, 2)}
    step = make_step(student, teacher)
    losses = [loss_of(array(student[name]), array(teacher[name])) for name in student]
    agree(built(CWD(), step)(step)["channels"], 10 * sum(losses))


def test_dense_outputs_are_compared_class_by_class(leaf, agree):
    student, teacher = leaf(2, 6, 4, 4, seed=1), leaf(2, 6, 4, 4, seed=2).detach()
    step = make_step(student={"logits": student}, teacher={"logits": teacher})
    method = built(CWD(preset="segmentation"), step)
    assert list(method.taps_in("joint")) == ["logits"]
    assert not list(method.parameters())
    agree(method(step)["channels"], 5 * loss_of(array(student), array(teacher)))


@pytest.mark.parametrize("options", [{"preset": "segmentation"}, {"taps": "logits"}])
def test_a_run_of_segmentation_may_compare_the_outputs(options, tmp_path):
    data = "digit-scenes@target=masks@size=32@train=4@test=2"
    engine = Engine("seg:resnet14", "seg:resnet8", ["cwd"], data, options={"cwd": options}, out=tmp_path / "run")
    (phase,) = engine.plan().lane.chain[0].phases
    assert list(phase.bindings["cwd"].student) == ["logits"]


def test_a_shift_of_a_channel_changes_nothing_and_a_scale_does(leaf):
    student, teacher = leaf(2, 3, 4, 4, seed=1).detach(), leaf(2, 3, 4, 4, seed=2).detach()
    loss = float(channel_loss(student, teacher))
    shift = torch.tensor([5.0, -3.0, 100.0])[:, None, None]
    assert float(channel_loss(student + shift, teacher)) == pytest.approx(loss, rel=1e-4)
    assert float(channel_loss(2 * student, teacher)) != pytest.approx(loss, rel=0.05)


@pytest.mark.parametrize("size", [0.0, 1e4, 1e30])
def test_dead_and_huge_maps_give_finite_values_and_gradients(size, leaf, gradient):
    student = (size * leaf(2, 3, 4, 4, seed=1)).detach().requires_grad_()
    loss = channel_loss(student, size * leaf(2, 3, 4, 4, seed=2).detach())
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient(loss, student)).all()


def test_equal_maps_cost_nothing_and_pull_nowhere(leaf, gradient):
    student = leaf(2, 3, 4, 4)
    loss = channel_loss(student, student.detach())
    assert loss.item() == 0
    assert gradient(loss, student).abs().max() < 1e-7


def test_a_map_of_one_position_costs_nothing(leaf, gradient):
    student = leaf(2, 3, 1, 1)
    loss = channel_loss(student, leaf(2, 3, 4, 4, seed=1).detach())
    assert loss.item() == 0
    assert gradient(loss, student).abs().max() == 0


def test_vectors_are_refused(leaf):
    step = make_step(student={"embedding": leaf(2, 64)}, teacher={"embedding": leaf(2, 64)})
    with pytest.raises(TapError, match=r"has \[2, 64\].*maps \[B, C, H, W\]"):
        built(CWD(), step)


@pytest.mark.parametrize("option", [{"beta": -1}, {"temperature": 0}])
def test_options_out_of_range_are_refused(option):
    with pytest.raises(SettingsError, match="greater than"):
        CWD(**option)


def test_a_run_records_the_last_stage(one_step):
    (terms,), student, teacher, _ = one_step(["cwd"])
    assert terms["cwd.channels"] == pytest.approx(10 * loss_of(student["stage3"], teacher["stage3"]), rel=1e-4)
