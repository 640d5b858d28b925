import numpy as np
import pytest
import torch
from kdplugin_nkd import NKD, normalised_losses

from kdengine.testing import DistillerContract, make_step

SHAPES = [(2, 3), (4, 5), (7, 10)]


class TestContract(DistillerContract):
    method = "nkd"


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def terms_of(student, teacher, classes, temperature=1.0):
    """Both terms as the paper writes them, image by image."""
    target = others = 0.0
    for s, t, y in zip(student, teacher, classes, strict=True):
        target -= softmax(t)[y] * np.log(softmax(s)[y])
        q, p = softmax(s / temperature), softmax(t / temperature)
        others -= sum(p[c] / (1 - p[y]) * np.log(q[c] / (1 - q[y])) for c in range(len(p)) if c != y)
    return np.array([target, others]) / len(student)


def logits(shape, leaf):
    student, teacher = leaf(*shape, seed=1), leaf(*shape, seed=2).detach()
    classes = torch.randint(shape[1], (shape[0],), generator=torch.Generator().manual_seed(3))
    return student, teacher, classes, [x.detach().double().numpy() for x in (student, teacher)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("part", [0, 1], ids=["target", "others"])
def test_both_terms_and_their_gradients_are_those_of_the_paper(shape, temperature, part, leaf, slope, agree, gradient):
    student, teacher, classes, (s, t) = logits(shape, leaf)
    loss = normalised_losses(student, teacher, classes, temperature)[part]
    agree(loss, terms_of(s, t, classes, temperature)[part])
    agree(gradient(loss, student), slope(lambda moved: terms_of(moved, t, classes, temperature)[part], s))


def test_the_weight_and_the_temperature_are_options(leaf, agree):
    student, teacher, classes, (s, t) = logits((4, 5), leaf)
    step = make_step(student_logits=student, teacher_logits=teacher, labels=classes)
    terms = NKD(gamma=0.7, temperature=2.0)(step)
    target, others = terms_of(s, t, classes, 2.0)
    agree(terms["target"], target)
    agree(terms["others"], 0.7 * 4 * others)


def test_of_two_classes_the_other_one_has_all_that_is_left(leaf, agree):
    student, teacher, classes, (s, t) = logits((4, 2), leaf)
    target, others = normalised_losses(student, teacher, classes, 1.0)
    agree(target, terms_of(s, t, classes)[0])
    assert others.item() == 0


@pytest.mark.parametrize("height", [500.0, -500.0, 1e4])
def test_logits_far_from_zero_keep_finite_losses_and_gradients(height, gradient):
    student = torch.tensor([[height, 0.0, 1.0], [0.0, height, 2.0]], requires_grad=True)
    for teacher in (student.detach(), -student.detach(), torch.zeros(2, 3)):
        loss = sum(normalised_losses(student, teacher, torch.tensor([0, 1]), 1.0))
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient(loss, student)).all()


def test_of_mixed_images_the_class_with_the_largest_share_counts(leaf):
    student, teacher, classes, _ = logits((4, 5), leaf)
    soft = 0.6 * torch.eye(5)[classes] + 0.4 * torch.eye(5)[(classes + 1) % 5]
    terms = [NKD()(make_step(student_logits=student, teacher_logits=teacher, labels=labels)) for labels in (classes, soft)]
    assert torch.equal(terms[0]["others"], terms[1]["others"])


def test_a_run_records_both_terms(one_step):
    (terms,), student, teacher, labels = one_step(["nkd"])
    target, others = terms_of(student["logits"], teacher["logits"], labels)
    assert terms["nkd.target"] == pytest.approx(target, rel=1e-3)
    assert terms["nkd.others"] == pytest.approx(1.5 * others, rel=1e-3)
