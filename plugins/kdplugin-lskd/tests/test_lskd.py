from dataclasses import replace

import numpy as np
import pytest
import torch
from kdplugin_lskd import LogitStandardisation, standardised
from kdplugin_st import SoftTargets

from kdengine import Distiller, Pair, Registry, SettingsError, Trace
from kdengine.testing import DistillerContract, make_step

SHAPES = [(1, 3), (2, 10), (5, 100)]


class TestContract(DistillerContract):
    method = "lskd"


class TestContractWithTheRecipesWeights(DistillerContract):
    method = SoftTargets
    options = {"alpha": 9.0, "task": 0.1, "temperature": 2.0}  # noqa: RUF012
    at_equality = {"soft": 0.0}  # noqa: RUF012


def z_score(logits):
    """Written out, one image at a time."""
    rows = []
    for row in logits:
        mean = sum(row) / len(row)
        deviation = np.sqrt(sum((value - mean) ** 2 for value in row) / (len(row) - 1))
        rows.append([(value - mean) / deviation for value in row])
    return np.array(rows)


def kl(student, teacher, temperature):
    q, p = ((raised := np.exp(z / temperature)) / raised.sum(1, keepdims=True) for z in (student, teacher))
    return (p * np.log(p / q)).sum(1).mean()


def soft_of(student, teacher):
    """What soft targets with the weights of the recipe make of standardised logits."""
    return 9 * 4 * kl(z_score(student), z_score(teacher), 2.0)


def seen(student, teacher, **options):
    return LogitStandardisation(**options).transform(make_step(student_logits=student, teacher_logits=teacher))


@pytest.mark.parametrize("shape", SHAPES)
def test_methods_see_the_z_scores_of_both_networks(shape, leaf, agree):
    student, teacher = leaf(*shape, seed=1), (5 * leaf(*shape, seed=2) + 3).detach()
    step = seen(student, teacher)
    agree(step.student.logits, z_score(student.detach().double().numpy()))
    agree(step.teacher.logits, z_score(teacher.double().numpy()))
    (pair,) = step.pairs
    assert torch.equal(pair.student, step.student.logits)
    assert torch.equal(pair.teacher, step.teacher.logits)


@pytest.mark.parametrize("shape", SHAPES)
def test_soft_targets_of_z_scores_and_their_gradient_are_those_of_the_formula(shape, leaf, slope, agree, gradient):
    student, teacher = leaf(*shape, seed=1, dtype=torch.float64), (5 * leaf(*shape, seed=2, dtype=torch.float64)).detach()
    loss = SoftTargets(alpha=9.0, task=0.1, temperature=2.0)(seen(student, teacher))["soft"]
    s, t = student.detach().numpy(), teacher.numpy()
    agree(loss, soft_of(s, t))
    agree(gradient(loss, student), slope(lambda moved: soft_of(moved, t), s), relative=1e-5)


def test_the_scale_and_the_mean_of_logits_do_not_count(leaf):
    logits = leaf(4, 10).detach()
    assert torch.allclose(standardised(7 * logits - 40, 0.1), standardised(logits, 0.1), atol=1e-5)


def test_logits_that_are_all_equal_have_small_gradients(leaf, gradient):
    """A classifier whose weights start at zero: divided by 1e-7, the first step would have a gradient of a million."""
    student, teacher = torch.zeros(4, 10, requires_grad=True), leaf(4, 10, seed=1).detach()
    plain = SoftTargets(alpha=9.0, task=0.1, temperature=2.0)
    loss = plain(seen(student, teacher))["soft"]
    assert torch.isfinite(loss)
    steepest = gradient(loss, student).abs().max()
    assert 0 < steepest < 40  # 9 T (q - p) / B, times at most 1 / 0.1
    assert torch.equal(seen(student, teacher).student.logits, torch.zeros(4, 10))


def test_huge_logits_stay_finite(gradient):
    student = torch.tensor([[5e4, -5e4, 0.0]], requires_grad=True)
    loss = SoftTargets(alpha=9.0, task=0.1)(seen(student, torch.tensor([[-5e4, 5e4, 0.0]])))["soft"]
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient(loss, student)).all()


def test_the_floor_is_an_option(agree):
    logits = torch.tensor([[0.0, 0.3, 0.6]])
    agree(standardised(logits, 2.0), (logits - 0.3) / 2)
    agree(seen(logits, logits, floor=2.0).student.logits, (logits - 0.3) / 2)


def test_every_view_and_every_teacher_is_standardised(leaf, agree):
    first, second = (make_step(student_logits=leaf(2, 5, seed=n), teacher_logits=leaf(2, 5, seed=n + 2)) for n in (1, 2))
    step = LogitStandardisation().transform(replace(first, further=(second,), others=(second,)))
    for shown in (step.views[1], step.per_teacher[1]):
        agree(shown.student.logits, z_score(second.student.logits.detach().double().numpy()))
        agree(shown.teacher.logits, z_score(second.teacher.logits.detach().double().numpy()))


@pytest.mark.parametrize("classes", [1, 2])
def test_so_few_classes_that_z_scores_are_constant_are_refused(classes):
    pair = Pair(Trace({}), Trace({}), num_classes=classes, num_samples=8, new_network=lambda spec: None)
    with pytest.raises(SettingsError, match=f"at least 3; of {classes}, the result is constant .* Leave lskd out"):
        LogitStandardisation().build(pair)
    LogitStandardisation().build(replace(pair, num_classes=3))


def test_the_recipe_has_the_weights_of_the_paper():
    text = Registry().recipe("lskd").read_text()
    assert all(line in text for line in ("alpha = 9.0", "task = 0.1", "temperature = 2.0"))


class Mean(Distiller):
    """Another method on logits.

    Source: here.
    """

    name = "mean"

    def forward(self, step):
        """The squared difference of the logits."""
        return {
            "gap": (step.student.logits - step.teacher.logits).square().mean(),
            "deviation": step.student["logits"].std(1).mean(),
        }


def test_in_a_run_every_method_but_the_task_sees_z_scores(one_step):
    (terms,), student, teacher, y = one_step(["lskd", "st", Mean()], st={"alpha": 9.0, "task": 0.1, "temperature": 2.0})
    s, t = student["logits"], teacher["logits"]
    log_q = s - np.log(np.exp(s).sum(1, keepdims=True))
    assert terms["task"] == pytest.approx(-0.1 * log_q[np.arange(len(y)), y].mean(), rel=1e-4)
    assert terms["st.soft"] == pytest.approx(soft_of(s, t), rel=1e-3)
    assert terms["mean.gap"] == pytest.approx(((z_score(s) - z_score(t)) ** 2).mean(), rel=1e-3)
    assert terms["mean.deviation"] == pytest.approx(1, rel=1e-4)
    assert set(terms) == {"task", "st.soft", "mean.gap", "mean.deviation"}


def test_alone_it_is_used_with_soft_targets_and_trains(distil):
    result = distil(
        ["lskd"], epochs=2, train={"batch_size": 16, "lr": 0.05}, st={"alpha": 9.0, "task": 0.1, "temperature": 2.0}
    )
    soft = [record["terms"]["st.soft"] for record in result.history]
    assert soft[-1] < soft[0]
