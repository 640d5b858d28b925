import math

import numpy as np
import pytest
import torch
from kdplugin_itrd import ITRD, correlation_loss, information_loss

from kdengine import SettingsError, TapError
from kdengine.testing import DistillerContract, built, make_step

SHAPES = [((2, 3), (2, 3)), ((3, 4), (3, 6)), ((5, 6), (5, 2)), ((6, 4), (6, 4))]


class TestContract(DistillerContract):
    method = "itrd"


def correlation_of(student, teacher, alpha=1.01):
    """Feature by feature, from the definition of the standardised correlation."""
    total, count = 0.0, len(student)
    for s, t in zip(student.T, teacher.T, strict=True):
        deviations = [math.sqrt(sum((value - x.mean()) ** 2 for value in x) / (count - 1)) for x in (s, t)]
        c = sum((a - s.mean()) * (b - t.mean()) for a, b in zip(s, t, strict=True)) / (deviations[0] * deviations[1] * count)
        total += abs(c - 1) ** (2 * alpha)
    return math.log2(total)


def gram(x):
    x = np.array([row / math.sqrt(float(row @ row)) for row in x])
    return np.array([[float(a @ b) for b in x] for a in x])


def information_of(student, teacher, logarithm=False):
    own, joint = gram(student), gram(student) * gram(teacher)
    norms = [float(((matrix / np.trace(matrix)) ** 2).sum()) for matrix in (own, joint)]
    if logarithm:  # the difference of two entropies, each from the eigenvalues of its matrix
        entropies = [-math.log2((np.linalg.eigvalsh(matrix / np.trace(matrix)) ** 2).sum()) for matrix in (own, joint)]
        return entropies[1] - entropies[0]
    return norms[0] - norms[1]


def array(tensor):
    return tensor.detach().double().numpy()


def step_of(student, teacher):
    return make_step({"embedding": student}, {"embedding": teacher})


def itrd(step, **options):
    torch.manual_seed(3)
    return built(ITRD(**options), step)


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("options", [{}, {"alpha": 1.5, "logarithm": True}])
def test_both_terms_and_their_gradients_are_those_of_the_formula(shapes, options, leaf, slope, agree, gradient):
    student, teacher = leaf(*shapes[0], seed=1), leaf(*shapes[1], seed=2).detach()
    step = step_of(student, teacher)
    method = itrd(step, **options)
    weight, bias = map(array, method.embeddings[0].parameters())
    s, t = array(student), array(teacher)
    alpha, logarithm = options.get("alpha", 1.01), options.get("logarithm", False)

    def correlation(x):
        return 2 * correlation_of(x @ weight.T + bias, t, alpha)

    def information(x):
        return information_of(x if x.shape == t.shape else x @ weight.T + bias, t, logarithm)

    terms = method(step)
    agree(terms["correlation"], correlation(s))
    agree(terms["information"], information(s))
    agree(gradient(method(step)["information"], student), slope(information, s))
    if len(s) > 2:  # the correlation of two images is 1 or -1, whatever they are
        agree(gradient(method(step)["correlation"], student), slope(correlation, s))


def test_the_weights_are_options_and_the_preset_script_sets_them(leaf, agree):
    student, teacher = leaf(5, 3, seed=1), leaf(5, 3, seed=2).detach()
    step = step_of(student, teacher)
    method = itrd(step, correlation=0.5, information=3.0)
    weight, bias = map(array, method.embeddings[0].parameters())
    s, t = array(student), array(teacher)
    agree(method(step)["correlation"], 0.5 * correlation_of(s @ weight.T + bias, t))
    agree(method(step)["information"], 3 * information_of(s, t))
    script = itrd(step, preset="script")(step)
    agree(script["correlation"], 2 * correlation_of(s @ weight.T + bias, t, 1.5))
    agree(script["information"], 0.05 * information_of(s, t))


def test_maps_and_tokens_are_averaged_and_several_taps_summed(leaf, agree):
    maps, tokens = leaf(4, 6, 2, 5, seed=1), leaf(4, 7, 6, seed=2).detach()
    student, teacher = leaf(4, 2, seed=3), leaf(4, 2, seed=4).detach()
    step = make_step({"stage2": maps, "embedding": student}, {"stage2": tokens, "embedding": teacher})
    expected = information_of(array(maps).mean((2, 3)), array(tokens).mean(1)) + information_of(array(student), array(teacher))
    agree(itrd(step)(step)["information"], expected)


def test_features_that_agree_up_to_scale_and_shift_reach_the_least_loss(leaf):
    """c_d is (B - 1) / B then, in every feature."""
    teacher = leaf(8, 5).detach()
    student = 3 * teacher + 2
    assert float(correlation_loss(student, teacher, 1.5)) == pytest.approx(math.log2(5 * (1 / 8) ** 3), rel=1e-4)


def test_a_large_order_does_not_underflow(leaf, gradient):
    """|1 - c|^(2 alpha) is below the smallest float, its logarithm is not."""
    teacher = leaf(8, 5).detach()
    student = (teacher + 0.01 * leaf(8, 5, seed=1).detach()).requires_grad_()
    loss = correlation_loss(student, teacher, 40.0)
    assert loss.item() == pytest.approx(80 * math.log2(1 / 8), rel=0.05)
    assert torch.isfinite(gradient(loss, student)).all()


def test_constant_features_count_as_uncorrelated_and_break_nothing(leaf, agree, gradient):
    student, teacher = leaf(4, 3, seed=1).detach(), leaf(4, 3, seed=2).detach()
    student[:, 0], teacher[:, 1] = 2.0, 0.0
    student.requires_grad_()
    rest = correlation_of(array(student)[:, 2:], array(teacher)[:, 2:])
    loss = correlation_loss(student, teacher)
    agree(loss, math.log2(2 + 2**rest))
    found = gradient(loss, student)
    assert torch.isfinite(found).all()
    assert found[:, :2].abs().max() == 0
    assert found[:, 2].abs().max() > 0


@pytest.mark.parametrize("logarithm", [False, True])
@pytest.mark.parametrize("student", [[[0.0, 0.0]] * 3, [[1.0, 2.0]] * 3, [[1e18, -1e18], [0.0, 0.0], [1e-3, 0.0]]])
def test_zero_equal_and_huge_embeddings_give_finite_gradients(student, logarithm, leaf, gradient):
    student = torch.tensor(student, requires_grad=True)
    teacher = leaf(3, 2).detach()
    loss = correlation_loss(student, teacher) + information_loss(student, teacher, logarithm)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient(loss, student)).all()


def test_a_batch_of_one_costs_nothing_and_gives_gradients_of_zero(leaf, gradient):
    student = leaf(1, 4)
    step = step_of(student, leaf(1, 4, seed=1).detach())
    terms = itrd(step)(step)
    assert [term.item() for term in terms.values()] == pytest.approx([0, 0], abs=1e-6)
    assert gradient(sum(terms.values()), student).abs().max() < 1e-6


def test_the_embedding_is_trained_by_both_terms_where_the_widths_differ(leaf):
    step = step_of(leaf(4, 3), leaf(4, 5, seed=1).detach())
    method = itrd(step)
    for term in method(step).values():
        assert torch.autograd.grad(term, method.embeddings[0].weight, retain_graph=True)[0].abs().max() > 1e-3


def test_the_task_keeps_its_full_weight_and_there_is_no_phase_of_its_own():
    assert ITRD().task_weight == 1
    assert list(ITRD().phases()) == []


def test_an_order_whose_gradient_would_be_infinite_is_refused():
    with pytest.raises(SettingsError, match=r"greater than or equal to 0\.5"):
        ITRD(alpha=0.4)


def test_taps_of_five_axes_are_refused(leaf):
    step = step_of(leaf(2, 3, 4, 5, 5), leaf(2, 3, 4, 5, 5))
    with pytest.raises(TapError, match=r"'embedding' the student has \[2, 3, 4, 5, 5\]"):
        built(ITRD(), step)


@pytest.mark.slow
def test_features_correlate_more_in_training(distil):
    result = distil(["itrd"], "digits@train=128@test=64", epochs=2, train={"batch_size": 16, "lr": 0.1})
    losses = [record["terms"]["itrd.correlation"] for record in result.history]
    assert losses[-1] < losses[0] - 1
