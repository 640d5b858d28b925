from typing import ClassVar

import numpy as np
import pytest
import torch
from kdplugin_dkd import DKD, decoupled_label_losses, decoupled_losses

from kdengine import SettingsError, TapError
from kdengine.testing import DistillerContract, built, make_step

SHAPES = [(2, 3), (4, 5), (7, 10)]


class TestContract(DistillerContract):
    method = "dkd"
    at_equality: ClassVar = {"target": 0.0, "rest": 0.0}


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def terms_of(student, teacher, classes, temperature=4.0):
    """Both terms as the paper writes them, image by image."""
    target = rest = 0.0
    for s, t, y in zip(student, teacher, classes, strict=True):
        q, p = softmax(s / temperature), softmax(t / temperature)
        for a, b in ((p[y], q[y]), (1 - p[y], 1 - q[y])):
            target += a * np.log(a / b)
        for c in range(len(p)):
            if c != y:
                a, b = p[c] / (1 - p[y]), q[c] / (1 - q[y])
                rest += a * np.log(a / b)
    return np.array([target, rest]) / len(student)


def logits(shape, leaf):
    student, teacher = leaf(*shape, seed=1), leaf(*shape, seed=2).detach()
    classes = torch.randint(shape[1], (shape[0],), generator=torch.Generator().manual_seed(3))
    return student, teacher, classes, [x.detach().double().numpy() for x in (student, teacher)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("part", [0, 1], ids=["target", "rest"])
def test_both_terms_and_their_gradients_are_those_of_the_paper(shape, part, leaf, slope, agree, gradient):
    student, teacher, classes, (s, t) = logits(shape, leaf)
    loss = decoupled_losses(student, teacher, classes, 4.0)[part]
    agree(loss, terms_of(s, t, classes)[part])
    agree(gradient(loss, student), slope(lambda moved: terms_of(moved, t, classes)[part], s))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_divergence_is_the_target_and_the_rest_weighed_by_the_share_of_the_others(shape, leaf):
    student, teacher, classes, _ = logits(shape, leaf)
    for s, t, y in zip(student.detach().double(), teacher.double(), classes, strict=True):
        target, rest = decoupled_losses(s[None], t[None], y[None], 2.0)
        q, p = (softmax(x.numpy() / 2) for x in (s, t))
        assert float(target + (1 - p[y]) * rest) == pytest.approx((p * np.log(p / q)).sum(), abs=1e-12)


def label_terms_of(student, teacher, labels, temperature):
    """Both terms of independent labels, label by label."""
    terms = np.zeros(2)
    for s, t, y in zip(student.flat, teacher.flat, labels.flat, strict=True):
        q, p = (1 / (1 + np.exp(-x / temperature)) for x in (s, t))
        terms[0 if y else 1] += p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    return terms / student.size


@pytest.mark.parametrize("part", [0, 1], ids=["target", "rest"])
def test_of_independent_labels_those_given_and_those_not_are_apart(part, leaf, slope, agree, gradient):
    student, teacher, _, (s, t) = logits((4, 5), leaf)
    labels = (torch.arange(20).reshape(4, 5) % 3 == 0).float()
    loss = decoupled_label_losses(student, teacher, labels, 2.0)[part]
    agree(loss, label_terms_of(s, t, labels.numpy(), 2.0)[part])
    agree(gradient(loss, student), slope(lambda moved: label_terms_of(moved, t, labels.numpy(), 2.0)[part], s))


def test_a_sure_teacher_of_labels_gives_finite_gradients(leaf, gradient):
    student, teacher = leaf(2, 3), torch.tensor([[800.0, -800.0, 0.0]] * 2)
    losses = decoupled_label_losses(student, teacher, torch.tensor([[1.0, 0.0, 0.0]] * 2), 1.0)
    assert torch.as_tensor(gradient(sum(losses), student)).isfinite().all()


def test_a_run_on_scenes_of_digits_has_both_terms(distil):
    result = distil(["dkd"], data="digit-scenes@train=16@test=8")
    assert all(result.history[0]["terms"][f"dkd.{name}"] > 0 for name in ("target", "rest"))


def test_the_weights_and_the_temperature_are_options(leaf, agree):
    student, teacher, classes, (s, t) = logits((4, 5), leaf)
    step = make_step(student_logits=student, teacher_logits=teacher, labels=classes, epoch=30)
    terms = DKD(alpha=0.5, beta=3.0, temperature=2.0)(step)
    target, rest = terms_of(s, t, classes, 2.0)
    agree(terms["target"], 4 * 0.5 * target)
    agree(terms["rest"], 4 * 3.0 * rest)


def test_the_weight_rises_over_the_first_epochs_and_sooner_in_short_runs(leaf):
    student, teacher, classes, _ = logits((4, 5), leaf)

    def size(**when):
        step = make_step(student_logits=student, teacher_logits=teacher, labels=classes, **when)
        return DKD()(step)["rest"].item()

    whole = size(epoch=19)
    assert size(epoch=0) == pytest.approx(whole / 20)
    assert size(epoch=4) == pytest.approx(whole / 4)
    assert size(epoch=0, progress=1 / 24) == pytest.approx(whole / 2)
    assert size(epoch=60) == whole


@pytest.mark.parametrize("height", [500.0, -500.0, 1e4])
def test_logits_far_from_zero_keep_finite_losses_and_gradients(height, gradient):
    """Where one minus the share of the class is taken of rounded shares, it is 0, and its logarithm infinite."""
    student = torch.tensor([[height, 0.0, 1.0], [0.0, height, 2.0]], requires_grad=True)
    for teacher in (student.detach(), -student.detach(), torch.zeros(2, 3)):
        target, rest = decoupled_losses(student, teacher, torch.tensor([0, 1]), 4.0)
        assert torch.isfinite(target + rest)
        assert torch.isfinite(gradient(target + rest, student)).all()


def test_of_mixed_images_the_class_with_the_largest_share_counts(leaf):
    student, teacher, classes, _ = logits((4, 5), leaf)
    hard = make_step(student_logits=student, teacher_logits=teacher, labels=classes)
    soft = 0.6 * torch.eye(5)[classes] + 0.4 * torch.eye(5)[(classes + 1) % 5]
    mixed = make_step(student_logits=student, teacher_logits=teacher, labels=soft)
    assert torch.equal(DKD()(hard)["rest"], DKD()(mixed)["rest"])


def test_two_classes_are_refused():
    step = make_step(student_logits=torch.zeros(2, 2), teacher_logits=torch.zeros(2, 2))
    with pytest.raises(SettingsError, match="with 2 classes there is nothing to compare"):
        built(DKD(), step)


def test_logits_of_other_classes_are_refused():
    step = make_step(student_logits=torch.zeros(2, 5), teacher_logits=torch.zeros(2, 6))
    with pytest.raises(TapError, match=r"\[2, 5\] and the teacher \[2, 6\]"):
        built(DKD(), step, num_classes=5)


def test_a_run_records_both_terms(one_step):
    (terms,), student, teacher, labels = one_step(["dkd"])
    target, rest = terms_of(student["logits"], teacher["logits"], labels)
    share = terms["dkd.target"] / (16 * target)
    assert 0 < share <= 1
    assert terms["dkd.rest"] == pytest.approx(16 * 8 * share * rest, rel=1e-3)
