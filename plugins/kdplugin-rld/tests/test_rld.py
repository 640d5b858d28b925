from typing import ClassVar

import numpy as np
import pytest
import torch
from kdplugin_rld import RLD, confidence_loss, masked_loss

from kdengine.testing import DistillerContract, make_step

SHAPES = [(3, 4), (4, 5), (7, 10)]


class TestContract(DistillerContract):
    method = "rld"
    at_equality: ClassVar = {"ranking": 0.0}


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def confidence_of(student, teacher, classes):
    total = 0.0
    for s, t, y in zip(student, teacher, classes, strict=True):
        p, q = softmax(t).max(), softmax(s)[y]
        total += p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    return total / len(student)


def ranking_of(student, teacher, classes, temperature=4.0):
    total = 0.0
    for s, t, y in zip(student, teacher, classes, strict=True):
        below = t < t[y]
        if below.sum():
            p, q = softmax(t[below] / temperature), softmax(s[below] / temperature)
            total += (p * np.log(p / q)).sum()
    return total / len(student)


def logits(shape, leaf):
    """The label is the class that the teacher ranks highest in half of the images, else some class."""
    student, teacher = leaf(*shape, seed=1), leaf(*shape, seed=2).detach()
    classes = torch.randint(shape[1], (shape[0],), generator=torch.Generator().manual_seed(3))
    classes[::2] = teacher[::2].argmax(1)
    return student, teacher, classes, [x.detach().double().numpy() for x in (student, teacher)]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_confidence_and_its_gradient_are_those_of_the_paper(shape, leaf, slope, agree, gradient):
    student, teacher, classes, (s, t) = logits(shape, leaf)
    loss = confidence_loss(student, teacher, classes)
    agree(loss, confidence_of(s, t, classes))
    agree(gradient(loss, student), slope(lambda moved: confidence_of(moved, t, classes), s))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_ranking_and_its_gradient_are_those_of_the_paper(shape, leaf, slope, agree, gradient):
    student, teacher, classes, (s, t) = logits(shape, leaf)
    loss = masked_loss(student, teacher, classes, 4.0)
    agree(loss, ranking_of(s, t, classes))
    agree(gradient(loss, student), slope(lambda moved: ranking_of(moved, t, classes), s))


def test_the_weights_and_the_temperature_are_options(leaf, agree):
    student, teacher, classes, (s, t) = logits((4, 5), leaf)
    step = make_step(student_logits=student, teacher_logits=teacher, labels=classes, epoch=30)
    terms = RLD(alpha=0.5, beta=3.0, temperature=2.0)(step)
    agree(terms["confidence"], 0.5 * confidence_of(s, t, classes))
    agree(terms["ranking"], 4 * 3.0 * ranking_of(s, t, classes, 2.0))


def test_the_weight_rises_over_the_first_epochs(leaf):
    student, teacher, classes, _ = logits((4, 5), leaf)
    steps = [make_step(student_logits=student, teacher_logits=teacher, labels=classes, epoch=epoch) for epoch in (0, 30)]
    first, late = (RLD()(step)["ranking"].item() for step in steps)
    assert first == pytest.approx(late / 20)


def test_a_teacher_that_ranks_the_label_last_teaches_no_ranking_and_one_below_it_is_no_ranking(leaf, gradient):
    student = leaf(2, 4)
    teacher = torch.tensor([[0.0, 1.0, 2.0, 3.0], [0.0, 1.0, 2.0, 3.0]])
    loss = masked_loss(student, teacher, torch.tensor([0, 1]), 4.0)
    assert loss.item() == 0
    assert gradient(loss, student).abs().max() == 0


@pytest.mark.parametrize("height", [500.0, -500.0, 1e4])
def test_logits_far_from_zero_keep_finite_losses_and_gradients(height, gradient):
    student = torch.tensor([[height, 0.0, 1.0], [0.0, height, 2.0]], requires_grad=True)
    for teacher in (student.detach(), -student.detach(), torch.zeros(2, 3)):
        classes = torch.tensor([0, 1])
        loss = confidence_loss(student, teacher, classes) + masked_loss(student, teacher, classes, 4.0)
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient(loss, student)).all()


def test_a_run_records_both_terms(one_step):
    (terms,), student, teacher, labels = one_step(["rld"])
    share = terms["rld.confidence"] / confidence_of(student["logits"], teacher["logits"], labels)
    assert 0 < share <= 1.001
    assert terms["rld.ranking"] == pytest.approx(
        16 * 8 * share * ranking_of(student["logits"], teacher["logits"], labels), rel=1e-2
    )
