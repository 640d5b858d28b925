from typing import ClassVar

import numpy as np
import pytest
import torch
from kdplugin_dist import DIST, dist_losses

from kdengine import TapError
from kdengine.testing import DistillerContract, built, make_step

SHAPES = [(2, 3), (4, 5), (7, 10)]


class TestContract(DistillerContract):
    method = "dist"
    at_equality: ClassVar = {"inter": 0.0, "intra": 0.0}


def softmax(x, temperature):
    e = np.exp(x / temperature - (x / temperature).max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def terms_of(student, teacher, temperature=1.0):
    """Mean of 1 - Pearson over images and over classes, by numpy's own correlation."""
    q, p = softmax(student, temperature), softmax(teacher, temperature)
    inter = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(q, p, strict=True)])
    intra = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(q.T, p.T, strict=True)])
    return np.array([inter, intra])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("part", [0, 1], ids=["inter", "intra"])
def test_both_terms_and_their_gradients_are_those_of_the_paper(shape, temperature, part, leaf, slope, agree, gradient):
    student, teacher = leaf(*shape, seed=1), leaf(*shape, seed=2).detach()
    s, t = (x.detach().double().numpy() for x in (student, teacher))
    loss = dist_losses(student, teacher, temperature)[part]
    agree(loss, terms_of(s, t, temperature)[part])
    if part == 1 and shape[0] == 2:  # two images of a class correlate by 1 or -1, whatever their values
        assert gradient(loss, student).abs().max() < 1e-4
        return
    agree(gradient(loss, student), slope(lambda moved: terms_of(moved, t, temperature)[part], s), relative=1e-4)


def test_the_weights_and_the_temperature_are_options(leaf, agree):
    student, teacher = leaf(4, 5, seed=1), leaf(4, 5, seed=2).detach()
    s, t = (x.detach().double().numpy() for x in (student, teacher))
    terms = DIST(beta=0.5, gamma=3.0, temperature=2.0)(make_step(student_logits=student, teacher_logits=teacher))
    inter, intra = terms_of(s, t, 2.0)
    agree(terms["inter"], 4 * 0.5 * inter)
    agree(terms["intra"], 4 * 3.0 * intra)


def test_scaled_and_shifted_logits_agree_where_the_softmax_is_nearly_linear(leaf):
    student = leaf(6, 5).detach()
    inter, intra = dist_losses(student, 3 * student + 2, temperature=1000.0)
    assert inter.item() == pytest.approx(0, abs=1e-3)
    assert intra.item() == pytest.approx(0, abs=1e-3)


def test_a_batch_of_one_has_no_term_within_classes(leaf, gradient):
    student = leaf(1, 5)
    inter, intra = dist_losses(student, leaf(1, 5, seed=1).detach())
    assert intra.item() == 0
    assert gradient(intra, student).abs().max() == 0
    assert inter.item() > 0


@pytest.mark.parametrize("classes", [2, 10, 100, 1000])
@pytest.mark.parametrize("preset", ["cifar100", "imagenet"])
@pytest.mark.parametrize("size", [0.0, 1e-8, 1e-5, 1e-3])
def test_nearly_uniform_probabilities_get_small_gradients(classes, preset, size, leaf, gradient):
    """With an epsilon inside the quotient, or a much lower floor, a student with a zeroed head gets gradients of thousands.

    1 % of the mean allows 2 tau / 1 %, times 1 / (B sqrt K) between classes and 1 / (K sqrt B) within them.
    """
    student = (size * leaf(64, classes).detach()).requires_grad_()
    method = DIST(preset=preset)
    terms = method(make_step(student_logits=student, teacher_logits=3 * leaf(64, classes, seed=1).detach()))
    slope = gradient(sum(terms.values()), student)
    bound = 200 * method.options.temperature * (1 / (64 * classes**0.5) + 1 / (classes * 8))
    assert torch.isfinite(slope).all()
    assert 0 < slope.abs().max() < 1.01 * bound


@pytest.mark.parametrize("size", [1e-3, 1e-2, 1.0])
def test_the_gradient_of_flat_rows_is_damped_but_not_turned_and_their_loss_is_that_of_the_formula(
    size, leaf, slope, agree, gradient
):
    student = (size * leaf(6, 5, seed=1, dtype=torch.float64).detach()).requires_grad_()
    teacher = leaf(6, 5, seed=2, dtype=torch.float64).detach()
    s, t = (x.detach().numpy() for x in (student, teacher))
    inter = dist_losses(student, teacher, 4.0)[0]
    agree(inter, terms_of(s, t, 4.0)[0])
    q = softmax(s, 4.0)
    damping = np.minimum(1, q.std(1, keepdims=True) / q.mean(1, keepdims=True) / 1e-2)
    full = slope(lambda moved: terms_of(moved, t, 4.0)[0], s, 1e-3 * size)
    agree(gradient(inter, student), damping * full, 1e-4)


def test_a_class_that_is_rare_in_the_batch_keeps_its_correlation_and_its_gradient(leaf, slope, agree, gradient):
    """Its probabilities are tiny, but they vary as much as those of any other class."""
    student, teacher = leaf(6, 5, seed=1).detach(), leaf(6, 5, seed=2).detach()
    student[:, 0] -= 20
    teacher[:, 0] -= 20
    student.requires_grad_()
    s, t = (x.detach().double().numpy() for x in (student, teacher))
    assert softmax(s, 1.0)[:, 0].max() < 1e-6
    intra = dist_losses(student, teacher)[1]
    agree(intra, terms_of(s, t)[1])
    found, expected = gradient(intra, student), slope(lambda moved: terms_of(moved, t)[1], s)
    agree(found[:, 0], expected[:, 0], 1e-4)


def test_a_class_without_any_probability_costs_a_constant_and_no_gradient(leaf, gradient):
    student = leaf(6, 5, seed=1).detach()
    student[:, 0] = -1e3
    student.requires_grad_()
    loss = sum(dist_losses(student, leaf(6, 5, seed=2).detach()))
    assert torch.isfinite(loss)
    slope = gradient(loss, student)
    assert torch.isfinite(slope).all()
    assert not slope[:, 0].any()


@pytest.mark.parametrize("height", [500.0, 1e4])
def test_logits_far_from_zero_keep_finite_losses_and_gradients(height, gradient):
    student = torch.tensor([[height, 0.0, 1.0], [0.0, height, 2.0]], requires_grad=True)
    loss = sum(dist_losses(student, torch.tensor([[0.0, 1.0, height], [2.0, 0.0, 1.0]])))
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient(loss, student)).all()


@pytest.mark.parametrize(("preset", "temperature"), [(None, 4.0), ("cifar100", 4.0), ("imagenet", 1.0)])
def test_the_presets_have_the_published_temperatures_and_weights(preset, temperature, leaf, agree):
    student, teacher = leaf(4, 5, seed=1), leaf(4, 5, seed=2).detach()
    s, t = (x.detach().double().numpy() for x in (student, teacher))
    method = DIST(preset=preset)
    terms = method(make_step(student_logits=student, teacher_logits=teacher))
    agree(torch.stack(list(terms.values())), 2 * temperature**2 * terms_of(s, t, temperature))
    assert method.task_weight == 1


def test_taps_that_are_no_logits_are_refused(leaf):
    step = make_step(student={"stage3": leaf(2, 3, 4, 4)}, teacher={"stage3": leaf(2, 3, 4, 4)})
    with pytest.raises(TapError, match=r"logits \[B, K\] of the same classes"):
        built(DIST(), step)


def test_a_run_records_both_terms(one_step):
    (terms,), student, teacher, _ = one_step(["dist"])
    inter, intra = terms_of(student["logits"], teacher["logits"], 4.0)
    assert terms["dist.inter"] == pytest.approx(32 * inter, rel=1e-2)
    assert terms["dist.intra"] == pytest.approx(32 * intra, rel=1e-2)


def test_mixup_is_no_obstacle(distil):
    result = distil(["dist"], train={"mixup": 0.2, "batch_size": 64})
    assert np.isfinite(list(result.history[0]["terms"].values())).all()
