import math
from typing import ClassVar

import numpy as np
import pytest
import torch
from kdplugin_ttm import TTM, WTTM, divergences, power_sum

from kdengine import SettingsError, TapError
from kdengine.testing import DistillerContract, built, make_step

SHAPES = [(1, 2), (2, 10), (7, 3), (5, 30)]
DEFAULTS = [(TTM, 8.0), (WTTM, 2.0)]


class TestTTM(DistillerContract):
    method = "ttm"


class TestTTMAtGammaOne(DistillerContract):
    """The transform is the identity."""

    method = "ttm"
    options: ClassVar = {"gamma": 1.0}
    at_equality: ClassVar = {"match": 0.0}


class TestWTTM(DistillerContract):
    method = "wttm"


def softmax(row, temperature=1.0):
    raised = [math.exp((z - max(row)) / temperature) for z in row]
    return [value / sum(raised) for value in raised]


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def match_of(method, student, teacher, gamma):
    """Image by image, with the power transform written out."""
    each = []
    for s, t in zip(student, teacher, strict=True):
        powers = [p**gamma for p in softmax(t)]
        total = sum(powers)
        each.append((total if method is WTTM else 1.0) * kl([value / total for value in powers], softmax(s)))
    return sum(each) / len(each)


@pytest.fixture
def outputs(leaf):
    """A step on random logits, and the same as float64 arrays: student, teacher."""

    def make(shape):
        student, teacher = leaf(*shape, seed=1), (3 * leaf(*shape, seed=2)).detach()
        step = make_step(student_logits=student, teacher_logits=teacher)
        return step, student, student.detach().double().numpy(), teacher.double().numpy()

    return make


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("gamma", [0.1, 0.4, 1.0])
@pytest.mark.parametrize(("method", "beta"), DEFAULTS)
def test_the_term_and_its_gradient_are_those_of_the_formula(shape, gamma, method, beta, outputs, slope, agree, gradient):
    step, student, s, t = outputs(shape)
    loss = method(gamma=gamma)(step)["match"]
    agree(loss, beta * match_of(method, s, t, gamma))
    agree(gradient(loss, student), slope(lambda moved: beta * match_of(method, moved, t, gamma), s))


def test_the_published_gradient_is_q_minus_the_transformed_teacher(outputs, agree, gradient):
    _, student, s, t = outputs((4, 6))
    loss = divergences(student, torch.tensor(t).float(), 0.25).sum()
    agree(gradient(loss, student), [np.subtract(softmax(a), softmax(b, 4.0)) for a, b in zip(s, t, strict=True)])


@pytest.mark.parametrize("temperature", [2.0, 4.0, 10.0])
def test_it_is_soft_targets_minus_a_renyi_entropy_of_the_student(temperature, outputs):
    """KL(p_T || q) = T KL(p_T || q_T) - (T - 1) H_{1/T}(q) + (T - 1) H(p_T), and the last has no gradient."""
    _, student, s, t = outputs((4, 6))
    found = divergences(student.double(), torch.tensor(t), 1 / temperature).detach().tolist()
    for value, a, b in zip(found, s, t, strict=True):
        p, q = softmax(b, temperature), softmax(a)
        renyi = math.log(sum(each ** (1 / temperature) for each in q)) / (1 - 1 / temperature)
        shannon = -sum(each * math.log(each) for each in p)
        expected = temperature * kl(p, softmax(a, temperature)) + (temperature - 1) * (shannon - renyi)
        assert value == pytest.approx(expected)


def test_the_power_sum_runs_from_one_to_k_to_the_power_of_one_minus_gamma():
    certain, ignorant = torch.tensor([[800.0, 0, 0, 0]]), torch.zeros(1, 4)
    assert power_sum(certain, 0.3).item() == pytest.approx(1)
    assert power_sum(ignorant, 0.3).item() == pytest.approx(4**0.7)
    assert power_sum(ignorant, 1.0).item() == pytest.approx(1)


def test_an_image_of_which_the_teacher_is_certain_weighs_less():
    student = torch.tensor([[1.0, 0.0, 0.5]] * 2, requires_grad=True)
    teacher = torch.tensor([[12.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    step = make_step(student_logits=student, teacher_logits=teacher)
    each = divergences(student, teacher, 0.5).tolist()
    weights = [sum(p**0.5 for p in softmax(row)) for row in teacher.tolist()]
    assert weights[0] < weights[1]
    expected = 2 * sum(w * d for w, d in zip(weights, each, strict=True)) / 2
    assert WTTM(gamma=0.5)(step)["match"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("method", [TTM, WTTM])
def test_beta_and_gamma_are_options(method, outputs, agree):
    step, _, s, t = outputs((4, 6))
    agree(method(beta=0.5, gamma=0.7)(step)["match"], 0.5 * match_of(method, s, t, 0.7))


@pytest.mark.parametrize(
    ("method", "preset", "gamma", "beta"),
    [
        (TTM, "cifar_vgg13-vgg8", 0.1, 45.0),
        (TTM, "resnet56-resnet20", 0.3, 7.0),
        (WTTM, "resnet32x4-shufflenetv2", 0.4, 16.0),
        (WTTM, "imagenet-resnet18", 0.8, 1.6),
    ],
)
def test_the_presets_are_those_of_the_paper(method, preset, gamma, beta, outputs, agree):
    step, _, s, t = outputs((4, 6))
    agree(method(preset=preset)(step)["match"], beta * match_of(method, s, t, gamma))


@pytest.mark.parametrize("method", [TTM, WTTM])
@pytest.mark.parametrize("size", [500.0, -500.0, 1e4])
def test_huge_logits_stay_finite(method, size, gradient):
    """Probabilities of zero have a power of zero and no logarithm."""
    student = torch.tensor([[size, 0.0, -size], [0.0, 0.0, 0.0]], requires_grad=True)
    step = make_step(student_logits=student, teacher_logits=torch.tensor([[-size, size, 0.0], [size, 0.0, 0.0]]))
    loss = method()(step)["match"]
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient(loss, student)).all()


@pytest.mark.parametrize("gamma", [0.0, -1.0, 1.5])
def test_an_exponent_outside_zero_to_one_is_refused(gamma):
    with pytest.raises(SettingsError, match="gamma"):
        WTTM(gamma=gamma)


@pytest.mark.parametrize("method", [TTM, WTTM])
def test_taps_that_are_no_logits_are_refused(method, leaf):
    step = make_step(student={"stage3": leaf(2, 3, 4, 4)}, teacher={"stage3": leaf(2, 3, 4, 4)})
    with pytest.raises(TapError, match=r"logits \[B, K\] of the same classes"):
        built(method(), step)


def test_a_run_records_both_methods_by_their_formulas(one_step):
    (terms,), student, teacher, _ = one_step(["ttm", "wttm"])
    s, t = student["logits"], teacher["logits"]
    assert terms["ttm.match"] == pytest.approx(8 * match_of(TTM, s, t, 0.2), rel=1e-3)
    assert terms["wttm.match"] == pytest.approx(2 * match_of(WTTM, s, t, 0.2), rel=1e-3)


def test_mixup_is_no_obstacle(distil):
    result = distil(["ttm"], train={"mixup": 0.2, "batch_size": 64})
    assert np.isfinite(list(result.history[0]["terms"].values())).all()
