from typing import ClassVar

import numpy as np
import pytest
import torch
from kdplugin_st import SoftTargets, soft_label_loss, soft_target_loss

from kdengine import SettingsError, TapError
from kdengine.testing import DistillerContract, built, make_step

SHAPES = [(1, 2), (2, 10), (7, 3), (5, 100)]


class TestContract(DistillerContract):
    method = "st"
    at_equality: ClassVar = {"soft": 0.0}


class TestContractOfLabels(TestContract):
    task = "multilabel"


def softmax(logits):
    raised = np.exp(logits - logits.max(1, keepdims=True))
    return raised / raised.sum(1, keepdims=True)


def kl(student, teacher, temperature):
    """Mean over the batch of sum_k p log(p / q), written out."""
    q, p = softmax(student / temperature), softmax(teacher / temperature)
    return sum(p[b, k] * np.log(p[b, k] / q[b, k]) for b, k in np.ndindex(p.shape)) / len(p)


def cross_entropy(student, labels):
    return -np.mean([np.log(softmax(student)[b, label]) for b, label in enumerate(labels)])


def entropy(logits):
    p = softmax(logits)
    return -(p * np.log(p)).sum(1).mean()


@pytest.fixture
def outputs(leaf):
    """A step on random logits, and the same logits as float64 arrays: student, teacher, labels."""

    def make(shape, scale=3.0, dtype=torch.float32):
        student, teacher = leaf(*shape, seed=1, dtype=dtype), (scale * leaf(*shape, seed=2, dtype=dtype)).detach()
        y = torch.arange(shape[0]) % shape[1]
        step = make_step(student_logits=student, teacher_logits=teacher, labels=y)
        return step, student, student.detach().double().numpy(), teacher.double().numpy(), y.numpy()

    return make


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("temperature", [1.0, 4.0, 10.0])
def test_the_soft_term_is_alpha_t_squared_kl_and_so_is_its_gradient(shape, temperature, outputs, agree, gradient):
    # in float64, since at a high temperature the divergence is a small difference of large numbers: see the next test
    step, student, s, t, _ = outputs(shape, dtype=torch.float64)
    loss = SoftTargets(alpha=0.7, temperature=temperature)(step)["soft"]
    agree(loss, 0.7 * temperature**2 * kl(s, t, temperature))
    # d/dz of T^2 KL is T (q - p), averaged over the batch
    expected = 0.7 * temperature * (softmax(s / temperature) - softmax(t / temperature)) / shape[0]
    agree(gradient(loss, student), expected)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("temperature", [1.0, 4.0, 10.0])
def test_in_float32_the_soft_term_errs_by_no_more_than_rounding(shape, temperature, outputs, agree, gradient):
    step, student, s, t, _ = outputs(shape)
    loss = SoftTargets(alpha=1.0, temperature=temperature)(step)["soft"]
    assert loss.item() == pytest.approx(temperature**2 * kl(s, t, temperature), rel=1e-5, abs=1e-7 * temperature**2)
    agree(gradient(loss, student), temperature * (softmax(s / temperature) - softmax(t / temperature)) / shape[0])


def test_the_gradient_is_also_the_numeric_derivative_of_the_formula(outputs, slope, agree, gradient):
    step, student, s, t, _ = outputs((3, 5))
    loss = SoftTargets()(step)["soft"]
    agree(gradient(loss, student), slope(lambda moved: 0.9 * 16 * kl(moved, t, 4.0), s))


def test_cross_entropy_with_soft_labels_is_the_divergence_plus_the_teachers_entropy(outputs, agree, gradient):
    step, student, s, t, _ = outputs((4, 6))
    divergence, soft_labels = (SoftTargets(soft_term=term)(step)["soft"] for term in ("kl", "ce"))
    agree(soft_labels, 0.9 * 16 * (kl(s, t, 4.0) + entropy(t / 4.0)))
    agree(gradient(soft_labels, student), gradient(divergence, student).double())


def test_without_t_squared_the_term_is_smaller_by_that_factor(outputs, agree):
    step, *_, s, t, _ = outputs((4, 6))
    agree(SoftTargets(t_squared=False, temperature=5.0)(step)["soft"], 0.9 * kl(s, t, 5.0))


def test_hard_temperature_brings_a_tempered_cross_entropy_in_place_of_the_engines(outputs, slope, agree, gradient):
    step, student, s, _, y = outputs((4, 6))
    method = SoftTargets(hard_temperature=True, task=0.5, temperature=10.0)
    agree(method(step)["hard"], 0.5 * cross_entropy(s / 10, y))
    agree(gradient(method(step)["hard"], student), slope(lambda moved: 0.5 * cross_entropy(moved / 10, y), s))
    assert method.task_weight == 0


@pytest.mark.parametrize(
    ("options", "weight"), [({}, 0.1), ({"alpha": 0.25}, 0.75), ({"task": 1.0}, 1.0), ({"alpha": 3.0, "task": 0.0}, 0.0)]
)
def test_the_task_weighs_one_minus_alpha_unless_said_otherwise(options, weight):
    assert SoftTargets(**options).task_weight == pytest.approx(weight)


def test_alpha_above_one_asks_for_the_weight_of_the_task():
    with pytest.raises(SettingsError, match="alpha above 1 needs 'task'"):
        SoftTargets(alpha=1.5)


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(SettingsError, match="greater than 0"):
        SoftTargets(temperature=0.0)


def test_taps_that_are_no_logits_are_refused(leaf):
    step = make_step(student={"stage3": leaf(2, 3, 4, 4)}, teacher={"stage3": leaf(2, 3, 4, 4)})
    with pytest.raises(TapError, match=r"logits \[B, K\] of the same classes"):
        built(SoftTargets(), step)


def test_the_preset_sseung_is_seven_tenths_task_and_three_tenths_kl_at_three(outputs, agree):
    step, *_, s, t, _ = outputs((4, 6))
    method = SoftTargets(preset="sseung")
    agree(method(step)["soft"], 0.3 * kl(s, t, 3.0))
    assert method.task_weight == pytest.approx(0.7)


def test_the_preset_tootouch_is_cross_entropy_with_soft_labels_without_t_squared(outputs, agree):
    step, *_, s, t, _ = outputs((4, 6))
    method = SoftTargets(preset="tootouch")
    agree(method(step)["soft"], 0.9 * (kl(s, t, 5.0) + entropy(t / 5.0)))
    assert method.task_weight == pytest.approx(0.1)


def test_the_preset_motakuss_divides_the_logits_of_both_terms_by_ten(outputs, agree):
    step, *_, s, t, y = outputs((4, 6))
    terms = SoftTargets(preset="motakuss")(step)
    agree(terms["soft"], kl(s, t, 10.0))
    agree(terms["hard"], cross_entropy(s / 10, y))


def test_an_option_beside_a_preset_wins(outputs, agree):
    step, *_, s, t, _ = outputs((4, 6))
    agree(SoftTargets(preset="sseung", temperature=1.0)(step)["soft"], 0.3 * kl(s, t, 1.0))


def test_equal_logits_cost_nothing_whatever_constant_is_added(leaf):
    logits = leaf(5, 7).detach()
    assert float(soft_target_loss(logits + 100, logits, 4.0)) == pytest.approx(0, abs=1e-6)


def test_logits_of_five_hundred_stay_finite(gradient):
    student = torch.tensor([[500.0, -500.0, 0.0]], requires_grad=True)
    loss = soft_target_loss(student, torch.tensor([[-500.0, 500.0, 0.0]]), 1.0)
    assert loss.item() == pytest.approx(1000, rel=1e-5)
    assert torch.isfinite(gradient(loss, student)).all()


def test_a_run_records_the_task_at_one_minus_alpha_and_the_soft_term_of_the_formula(one_step):
    (terms,), student, teacher, y = one_step(["st"])
    s, t = student["logits"], teacher["logits"]
    assert terms["task"] == pytest.approx(0.1 * cross_entropy(s, y), rel=1e-4)
    assert terms["st.soft"] == pytest.approx(0.9 * 16 * kl(s, t, 4.0), rel=1e-4)


def test_a_run_with_the_preset_motakuss_has_no_task_term_of_the_engine(one_step):
    (terms,), student, _, y = one_step(["st"], st={"preset": "motakuss"})
    assert set(terms) == {"st.soft", "st.hard"}
    assert terms["st.hard"] == pytest.approx(cross_entropy(student["logits"] / 10, y), rel=1e-4)


def test_used_twice_both_terms_count_and_the_weights_of_the_task_multiply(one_step):
    (terms,), student, teacher, y = one_step(
        ["st", "st"], st={"alpha": 0.5, "taps": "fc=logits"}, st_2={"alpha": 0.5, "temperature": 1.0}
    )
    s, t = student["logits"], teacher["logits"]
    assert terms["task"] == pytest.approx(0.25 * cross_entropy(s, y), rel=1e-4)
    assert terms["st.soft"] == pytest.approx(0.5 * 16 * kl(s, t, 4.0), rel=1e-4)
    assert terms["st-2.soft"] == pytest.approx(0.5 * kl(s, t, 1.0), rel=1e-4)


@pytest.mark.slow
def test_a_student_taught_by_soft_targets_alone_comes_closer_to_its_teacher(distil):
    result = distil(["st"], "digits@train=128@test=64", epochs=2, train={"batch_size": 16}, st={"alpha": 1.0})
    soft = [record["terms"]["st.soft"] for record in result.history]
    assert "task" not in result.history[0]["terms"]
    assert soft[-1] < 0.5 * soft[0]


@pytest.mark.parametrize("shape", [(2, 3), (5, 7)])
@pytest.mark.parametrize("soft_term", ["kl", "ce"])
def test_for_independent_labels_it_is_the_divergence_of_each_labels_odds(shape, soft_term, leaf, slope, agree, gradient):
    student, teacher, temperature = leaf(*shape, seed=1), leaf(*shape, seed=2).detach(), 3.0

    def formula(s, t):
        q, p = (1 / (1 + np.exp(-x / temperature)) for x in (s, t))
        cross = -(p * np.log(q) + (1 - p) * np.log(1 - q))
        entropy = -(p * np.log(p) + (1 - p) * np.log(1 - p))
        return (cross - (entropy if soft_term == "kl" else 0)).mean()

    s, t = (tensor.detach().double().numpy() for tensor in (student, teacher))
    loss = soft_label_loss(student, teacher, temperature, soft_term)
    agree(loss, formula(s, t))
    agree(gradient(loss, student), slope(lambda moved: formula(moved, t), s))


def test_labels_far_from_zero_keep_finite_gradients(leaf, gradient):
    student = torch.tensor([[500.0, -500.0]], requires_grad=True)
    loss = soft_label_loss(student, -student.detach(), 1.0)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient(loss, student)).all()


@pytest.mark.parametrize("smaller", [False, True], ids=["alike", "teacher-larger"])
def test_of_pixels_it_is_the_mean_over_all_positions(smaller, leaf, slope, agree, gradient):
    student, teacher = leaf(2, 3, 2, 4, seed=1), (3 * leaf(2, 3, *((4, 8) if smaller else (2, 4)), seed=2)).detach()
    method = SoftTargets()
    method.outputs = "pixels"  # as build does, after the options are made to suit
    method.suit("pixels")
    loss = method(make_step(student_logits=student, teacher_logits=teacher))["soft"]
    s, t = (x.detach().double().numpy() for x in (student, teacher))
    if smaller:  # the larger map is averaged to the smaller size
        t = t.reshape(2, 3, 2, 2, 4, 2).mean((3, 5))

    def by_pixel(moved):
        return np.mean([kl(moved[b, :, i, j][None], t[b, :, i, j][None], 1.0) for b, i, j in np.ndindex(2, 2, 4)])

    agree(loss, by_pixel(s))
    agree(gradient(loss, student), slope(by_pixel, s))
    assert method.task_weight == 1


def test_what_was_chosen_is_kept_for_pixels_too_and_other_outputs_have_the_usual_defaults():
    chosen = SoftTargets(temperature=2.0)
    chosen.suit("pixels")
    assert (chosen.options.temperature, chosen.options.alpha, chosen.task_weight) == (2.0, 1.0, 1.0)
    usual = SoftTargets()
    usual.suit("classes")
    assert usual.options == SoftTargets().options
    assert SoftTargets(**chosen.options.model_dump()).options.temperature == 2.0
