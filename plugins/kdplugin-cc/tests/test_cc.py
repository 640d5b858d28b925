import math
from typing import ClassVar

import numpy as np
import pytest
import torch
from kdplugin_cc import CorrelationCongruence, congruence_loss, correlations, successor_loss

from kdengine import SettingsError, TapError
from kdengine.testing import DistillerContract, built, make_step

SHAPES = [((2, 3), (2, 3)), ((3, 4), (3, 9)), ((5, 6), (5, 2)), ((6, 8), (6, 5))]


class TestContract(DistillerContract):
    method = "cc"
    at_equality: ClassVar = {"correlation": 0.0}


class TestContractOfRepDistillersForm(DistillerContract):
    method = "cc"
    options: ClassVar = {"preset": "repdistiller"}


def kernel(x, gamma=0.4, order=2):
    """K of all pairs, term by term of the polynomial."""
    x = [row / math.sqrt(float(row @ row)) for row in x]
    return [
        [
            math.exp(-2 * gamma) * sum((2 * gamma) ** p / math.factorial(p) * float(a @ b) ** p for p in range(order + 1))
            for b in x
        ]
        for a in x
    ]


def loss_of(student, teacher, **options):
    s, t = kernel(student, **options), kernel(teacher, **options)
    count = len(student)
    return sum((s[i][j] - t[i][j]) ** 2 for i in range(count) for j in range(count)) / count**2


def successors_of(student, teacher):
    gaps = np.abs(student - teacher)
    products = [float(gaps[i] @ gaps[i + 1]) for i in range(len(gaps) - 1)]
    return sum(products) / len(products)


def arrays(*tensors):
    return [tensor.detach().double().numpy() for tensor in tensors]


def step_of(student, teacher):
    return make_step({"embedding": student}, {"embedding": teacher})


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("options", [{}, {"gamma": 1.5, "order": 4}, {"order": 1}])
def test_loss_and_gradient_are_those_of_the_formula(shapes, options, leaf, slope, agree, gradient):
    student, teacher = leaf(*shapes[0], seed=1), leaf(*shapes[1], seed=2).detach()
    s, t = arrays(student, teacher)
    loss = CorrelationCongruence(**options)(step_of(student, teacher))["correlation"]
    agree(loss, 100 * loss_of(s, t, **options))
    agree(gradient(loss, student), slope(lambda moved: 100 * loss_of(moved, t, **options), s))


def test_a_high_order_is_the_gaussian_kernel_of_the_distances(leaf, agree):
    x = leaf(5, 4).detach()
    (unit,) = arrays(x / x.norm(dim=1, keepdim=True))
    distances = ((unit[:, None] - unit[None]) ** 2).sum(2)
    agree(correlations(x, gamma=0.7, order=20), np.exp(-0.7 * distances))


def test_the_preset_repdistiller_multiplies_the_differences_of_successive_images(leaf, slope, agree, gradient):
    student, teacher = leaf(4, 3, seed=1), leaf(4, 5, seed=2).detach()
    step = step_of(student, teacher)
    torch.manual_seed(0)
    method = built(CorrelationCongruence(preset="repdistiller"), step)
    assert [method.students[0].out_features, method.teachers[0].out_features] == [128, 128]
    a, b, c, d = arrays(*method.students[0].parameters(), *method.teachers[0].parameters())
    s, t = arrays(student, teacher)
    loss = method(step)["correlation"]
    agree(loss, 0.02 * successors_of(s @ a.T + b, t @ c.T + d))
    agree(gradient(loss, student), slope(lambda moved: 0.02 * successors_of(moved @ a.T + b, t @ c.T + d), s))


def test_width_is_that_of_the_embeddings_and_the_kernel_form_trains_nothing(leaf):
    step = step_of(leaf(4, 3, seed=1), leaf(4, 5, seed=2).detach())
    assert built(CorrelationCongruence(form="successors", width=7), step).teachers[0].out_features == 7
    assert not list(built(CorrelationCongruence(), step).parameters())


def test_the_weight_is_an_option(leaf, agree):
    student, teacher = leaf(4, 3, seed=1), leaf(4, 5, seed=2).detach()
    loss = CorrelationCongruence(beta=2.0)(step_of(student, teacher))["correlation"]
    agree(loss, 2 * loss_of(*arrays(student, teacher)))


def test_maps_and_tokens_are_averaged_and_several_taps_summed(leaf, agree):
    maps, tokens = leaf(4, 3, 2, 5, seed=1), leaf(4, 7, 6, seed=2).detach()
    student, teacher = leaf(4, 2, seed=3), leaf(4, 2, seed=4).detach()
    (m, n), (s, t) = arrays(maps, tokens), arrays(student, teacher)
    step = make_step({"stage2": maps, "embedding": student}, {"stage2": tokens, "embedding": teacher})
    agree(CorrelationCongruence()(step)["correlation"], 100 * (loss_of(m.mean((2, 3)), n.mean(1)) + loss_of(s, t)))


@pytest.mark.parametrize("options", [{}, {"preset": "repdistiller"}])
def test_a_batch_of_one_costs_nothing_and_gives_gradients_of_zero(options, leaf, gradient):
    student = leaf(1, 4)
    step = step_of(student, leaf(1, 4, seed=1).detach())
    loss = built(CorrelationCongruence(**options), step)(step)["correlation"]
    assert loss.item() == pytest.approx(0, abs=1e-8)
    assert gradient(loss, student).abs().max() < 1e-6


def test_equal_huge_and_zero_embeddings_give_finite_gradients(leaf, gradient):
    student = torch.tensor([[1.0, 2.0], [1.0, 2.0], [1e18, 1e18], [0.0, 0.0]], requires_grad=True)
    found = gradient(congruence_loss(student, leaf(4, 3).detach()), student)
    assert torch.isfinite(found).all()
    assert found[3].abs().max() == 0


def test_equal_embeddings_have_no_difference_to_multiply(leaf, gradient):
    student = leaf(4, 3)
    loss = successor_loss(student, student.detach().clone())
    assert loss.item() == 0
    assert gradient(loss, student).abs().max() == 0


def test_the_task_keeps_its_full_weight_and_there_is_no_phase_of_its_own():
    assert CorrelationCongruence().task_weight == 1
    assert list(CorrelationCongruence().phases()) == []


@pytest.mark.parametrize(("options", "fault"), [({"gamma": 0.0}, "greater than 0"), ({"form": "cosine"}, "'kernel'")])
def test_a_wrong_option_is_refused(options, fault):
    with pytest.raises(SettingsError, match=fault):
        CorrelationCongruence(**options)


def test_taps_of_five_axes_are_refused(leaf):
    step = step_of(leaf(2, 3, 4, 5, 5), leaf(2, 3, 4, 5, 5))
    with pytest.raises(TapError, match=r"'embedding' the student has \[2, 3, 4, 5, 5\]"):
        built(CorrelationCongruence(), step)


def test_a_run_records_the_kernels_of_the_pooled_features(one_step):
    (terms,), student, teacher, _ = one_step(["cc"])
    assert terms["cc.correlation"] == pytest.approx(100 * loss_of(student["embedding"], teacher["embedding"]), rel=1e-2)
