import math

import numpy as np
import pytest
import torch
from kdplugin_srd import SRD, log_distance

from kdengine import SettingsError, TapError
from kdengine.testing import DistillerContract, built, make_step

SHAPES = [((2, 3), (2, 3)), ((3, 4), (3, 6)), ((5, 6), (5, 2)), ((6, 4), (6, 4))]


class TestContract(DistillerContract):
    method = "srd"


def normalised(x):
    """Every feature minus its mean over the batch, over its standard deviation."""
    columns = []
    for column in x.T:
        mean = sum(column) / len(column)
        variance = sum((value - mean) ** 2 for value in column) / len(column)
        columns.append([(value - mean) / math.sqrt(variance + 1e-4) for value in column])
    return np.array(columns).T


def loss_of(student, teacher, weight, power=4.0):
    s, t = normalised(student @ weight.T), normalised(teacher)
    return math.log(sum(abs(a - b) ** power for a, b in zip(s.ravel(), t.ravel(), strict=True)) + 1e-5)


def array(tensor):
    return tensor.detach().double().numpy()


def step_of(student, teacher):
    return make_step({"embedding": student}, {"embedding": teacher})


def srd(step, **options):
    torch.manual_seed(3)
    return built(SRD(**options), step)


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("power", [4.0, 2.5])
def test_loss_and_gradients_are_those_of_the_formula(shapes, power, leaf, slope, agree):
    student, teacher = leaf(*shapes[0], seed=1), leaf(*shapes[1], seed=2).detach()
    step = step_of(student, teacher)
    method = srd(step, power=power)
    projection = method.projectors[0].project.weight
    s, t, weight = array(student), array(teacher), array(projection)
    loss = method(step)["distance"]
    agree(loss, 2 * loss_of(s, t, weight, power))
    if len(s) > 2:  # two normalised images are at 1 and -1, but for the 1e-4 of the variance
        by_student, by_weight = torch.autograd.grad(loss, [student, projection])
        agree(by_student, slope(lambda moved: 2 * loss_of(moved, t, weight, power), s))
        agree(by_weight, slope(lambda moved: 2 * loss_of(s, t, moved, power), weight))


def test_the_weight_is_an_option_and_several_taps_are_summed(leaf, agree):
    maps, tokens = leaf(4, 3, 2, 5, seed=1), leaf(4, 7, 6, seed=2).detach()
    student, teacher = leaf(4, 2, seed=3), leaf(4, 5, seed=4).detach()
    step = make_step({"stage2": maps, "embedding": student}, {"stage2": tokens, "embedding": teacher})
    method = srd(step, beta=0.5)
    one, two = (array(projector.project.weight) for projector in method.projectors)
    losses = loss_of(array(maps).mean((2, 3)), array(tokens).mean(1), one), loss_of(array(student), array(teacher), two)
    agree(method(step)["distance"], 0.5 * sum(losses))


def test_scale_and_shift_of_either_network_change_nothing(leaf):
    student, teacher = leaf(6, 4, seed=1).detach(), leaf(6, 5, seed=2).detach()
    method = srd(step_of(student, teacher))
    steps = step_of(student, teacher), step_of(100 * student + 7, 50 * teacher - 3)
    before, after = (method(step)["distance"].item() for step in steps)
    assert after == pytest.approx(before, rel=1e-2)  # but for the 1e-4 of the variance


@pytest.mark.slow
def test_the_gradient_does_not_fade_as_the_two_come_closer(leaf, gradient):
    """That of a logarithm rises as 1 / distance, where that of the fourth power would fall as its cube."""
    teacher, direction = leaf(4, 3).detach(), leaf(4, 3, seed=1).detach()
    sizes = []
    for distance in (1.0, 0.5):
        student = (teacher + distance * direction).requires_grad_()
        sizes.append(float(gradient(log_distance(student, teacher), student).norm()))
    assert sizes[1] == pytest.approx(2 * sizes[0], rel=1e-3)


@pytest.mark.parametrize("power", [1.0, 4.0])
def test_equal_features_give_a_finite_loss_and_no_gradient(power, leaf, gradient):
    student = leaf(4, 3)
    loss = log_distance(student, student.detach().clone(), power)
    assert loss.item() == pytest.approx(math.log(1e-5), rel=1e-5)
    assert gradient(loss, student).abs().max() == 0


def test_constant_and_huge_features_give_finite_gradients(leaf, gradient):
    student, teacher = torch.zeros(4, 3), leaf(4, 5).detach()
    student[:, 0], student[:, 1], teacher[:, 2] = 5.0, torch.tensor([1e15, -1e15, 1e15, 0.0]), 0.0
    student.requires_grad_()
    step = step_of(student, teacher)
    loss = srd(step)(step)["distance"]
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient(loss, student)).all()


def test_a_batch_of_one_is_normalised_by_running_statistics_which_it_leaves_alone(leaf, agree):
    step = step_of(leaf(1, 4), leaf(1, 3, seed=1).detach())
    method = srd(step)
    weight = array(method.projectors[0].project.weight)
    s, t = array(step.student["embedding"]) @ weight.T, array(step.teacher["embedding"])
    agree(method(step)["distance"], 2 * math.log((((s - t) / math.sqrt(1 + 1e-4)) ** 4).sum() + 1e-5))
    assert method.projectors[0].teacher_norm.running_mean.abs().max() == 0


def test_only_the_projection_is_trained(leaf):
    method = srd(step_of(leaf(4, 3), leaf(4, 5, seed=1).detach()))
    assert [list(value.shape) for value in method.parameters()] == [[5, 3]]


def test_the_task_keeps_its_full_weight_and_there_is_no_phase_of_its_own():
    assert SRD().task_weight == 1
    assert list(SRD().phases()) == []


def test_a_power_below_one_is_refused():
    with pytest.raises(SettingsError, match="greater than or equal to 1"):
        SRD(power=0.5)


def test_taps_of_five_axes_are_refused(leaf):
    step = step_of(leaf(2, 3, 4, 5, 5), leaf(2, 3, 4, 5, 5))
    with pytest.raises(TapError, match=r"'embedding' the student has \[2, 3, 4, 5, 5\]"):
        built(SRD(), step)


@pytest.mark.slow
def test_features_come_closer_to_the_teachers_in_training(distil):
    result = distil(["srd"], "digits@train=128@test=64", epochs=2, train={"batch_size": 16, "lr": 0.1})
    losses = [record["terms"]["srd.distance"] for record in result.history]
    assert losses[-1] < losses[0] - 0.5
