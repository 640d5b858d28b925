from typing import ClassVar

import numpy as np
import pytest
import torch
from kdplugin_dist import DIST, dist_losses

from kdengine.testing import DistillerContract, make_step

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


@pytest.mark.parametrize("size", [0.0, 1e-6, 1e-3])
def test_nearly_uniform_probabilities_get_small_gradients(size, leaf, gradient):
    """With an epsilon inside the quotient, a student that starts from a zeroed head gets gradients above 1e5."""
    student = (size * leaf(6, 100).detach()).requires_grad_()
    slope = gradient(sum(dist_losses(student, leaf(6, 100, seed=1).detach())), student)
    assert torch.isfinite(slope).all()
    assert slope.abs().max() < 1000


@pytest.mark.parametrize("height", [500.0, 1e4])
def test_logits_far_from_zero_keep_finite_losses_and_gradients(height, gradient):
    student = torch.tensor([[height, 0.0, 1.0], [0.0, height, 2.0]], requires_grad=True)
    loss = sum(dist_losses(student, torch.tensor([[0.0, 1.0, height], [2.0, 0.0, 1.0]])))
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient(loss, student)).all()


def test_a_run_records_both_terms(one_step):
    (terms,), student, teacher, _ = one_step(["dist"])
    inter, intra = terms_of(student["logits"], teacher["logits"], 4.0)
    assert terms["dist.inter"] == pytest.approx(32 * inter, rel=1e-2)
    assert terms["dist.intra"] == pytest.approx(32 * intra, rel=1e-2)
