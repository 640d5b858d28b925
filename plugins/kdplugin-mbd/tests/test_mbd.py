import math

import numpy as np
import pytest
import torch
from kdplugin_mbd import DeltaMerit, HardMerit, MeritBased, SoftMerit, correct, delta_merit, hard_merit, merit_loss, soft_merit

from kdengine import Registry, SettingsError, TapError
from kdengine.testing import built, make_step

SHAPES = [(1, 2), (2, 10), (7, 3), (5, 100)]
METHODS = [DeltaMerit, HardMerit, SoftMerit]


def softmax(row, temperature=1.0):
    raised = [math.exp(z / temperature - max(row) / temperature) for z in row]
    return [value / sum(raised) for value in raised]


def divergence(student, teacher, temperature):
    """KL of one image, written out."""
    q, p = softmax(student, temperature), softmax(teacher, temperature)
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def entropy(student, label, temperature=1.0):
    return -math.log(softmax(student, temperature)[label])


def merits(method, teacher, labels, temperature=1.0, alpha=0.5, delta=0.1):
    """The weight of every image, written out."""
    found = []
    for row, label in zip(teacher, labels, strict=True):
        right = max(range(len(row)), key=lambda k: row[k]) == label
        found.append(
            {
                DeltaMerit: alpha + delta if right else alpha - delta,
                HardMerit: alpha if right else 0.0,
                SoftMerit: softmax(row, temperature)[label],
            }[method]
        )
    return found


def terms_of(weights, student, teacher, labels, temperature=1.0):
    """Both terms, image by image: a single temperature in the divergence, none in the cross-entropy."""
    images = list(zip(weights, student, teacher, labels, strict=True))
    hard = sum((1 - m) * entropy(s, y) for m, s, _, y in images) / len(images)
    soft = sum(m * temperature**2 * divergence(s, t, temperature) for m, s, t, _ in images) / len(images)
    return hard, soft


def motakuss(method, student, teacher, labels, temperature):
    """The loss of that implementation, in its own order: everything is divided by T, and in the divergence again."""
    total = 0.0
    for z_s, z_t, label in zip(student / temperature, teacher / temperature, labels, strict=True):
        kl, ce = divergence(z_s, z_t, temperature), entropy(z_s, label)
        right = int(np.argmax(z_t)) == label
        if method is DeltaMerit:
            share = 0.6 if right else 0.4
        elif method is HardMerit:
            share = 0.5 if right else 0.0
        else:
            share = softmax(z_t)[label]
        total += (1 - share) * ce + share * temperature**2 * kl
    return total / len(labels)


@pytest.fixture
def outputs(leaf):
    """A step on random logits, of which the teacher gets about half right; the same as float64 arrays."""

    def make(shape, dtype=torch.float64, scale=3.0):
        student, teacher = leaf(*shape, seed=1, dtype=dtype), (scale * leaf(*shape, seed=2, dtype=dtype)).detach()
        labels = torch.where(torch.arange(shape[0]) % 2 == 0, teacher.argmax(1), (teacher.argmax(1) + 1) % shape[1])
        step = make_step(student_logits=student, teacher_logits=teacher, labels=labels)
        return step, student, student.detach().double().numpy(), teacher.double().numpy(), labels.tolist()

    return make


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("method", METHODS)
def test_both_terms_and_their_gradients_are_those_of_the_formula(method, temperature, shape, outputs, slope, agree, gradient):
    # in float64, since at a high temperature the divergence is a small difference of large numbers: see the next test
    step, student, s, t, y = outputs(shape)
    weights = merits(method, t, y, temperature)
    expected = terms_of(weights, s, t, y, temperature)
    for place, name in enumerate(("hard", "soft")):
        loss = method(temperature=temperature)(step)[name]
        agree(loss, expected[place])
        found = gradient(loss, student)
        if shape != (5, 100):  # would take a thousand evaluations
            agree(found, slope(lambda moved, place=place: terms_of(weights, moved, t, y, temperature)[place], s))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("method", METHODS)
def test_in_float32_both_terms_err_by_no_more_than_rounding(method, temperature, shape, outputs):
    step, _, s, t, y = outputs(shape, torch.float32)
    hard, soft = terms_of(merits(method, t, y, temperature), s, t, y, temperature)
    found = method(temperature=temperature)(step)
    assert found["hard"].item() == pytest.approx(hard, rel=1e-5)
    assert found["soft"].item() == pytest.approx(soft, rel=1e-5, abs=1e-7 * temperature**2)


@pytest.mark.parametrize("method", METHODS)
def test_the_terms_are_all_that_the_student_learns_from(method, outputs):
    assert method().task_weight == 0
    assert set(method()(outputs((4, 3))[0])) == {"hard", "soft"}
    assert list(method().phases()) == []


def test_the_defaults_are_a_temperature_of_one_a_half_and_a_tenth():
    options = DeltaMerit().options
    assert (options.alpha, options.delta, options.temperature) == (0.5, 0.1, 1.0)
    assert (options.double_temperature, options.hard_temperature) == (False, False)
    assert HardMerit().options.alpha == 0.5


def test_delta_weighs_a_right_teacher_with_alpha_plus_delta_and_a_wrong_one_with_alpha_minus_delta(outputs, agree):
    step, _, s, t, y = outputs((6, 4))
    agree(delta_merit(torch.tensor(t), step.y, 0.3, 0.2), [0.5, 0.1] * 3)
    hard, soft = terms_of(merits(DeltaMerit, t, y, alpha=0.3, delta=0.2), s, t, y)
    found = DeltaMerit(alpha=0.3, delta=0.2)(step)
    agree(found["hard"], hard)
    agree(found["soft"], soft)


def test_hard_leaves_the_images_of_a_wrong_teacher_to_their_labels(outputs, agree, gradient):
    step, student, s, t, y = outputs((6, 4))
    agree(hard_merit(torch.tensor(t), step.y, 0.7), [0.7, 0.0] * 3)
    found = HardMerit(alpha=0.7)(step)
    hard, soft = terms_of(merits(HardMerit, t, y, alpha=0.7), s, t, y)
    agree(found["hard"], hard)
    agree(found["soft"], soft)
    assert gradient(found["soft"], student).abs().sum(1).bool().tolist() == [True, False] * 3


def test_soft_weighs_the_teacher_with_its_probability_of_the_label(outputs, agree):
    step, *_, t, y = outputs((5, 4))
    for temperature in (1.0, 3.0):
        expected = [softmax(row, temperature)[label] for row, label in zip(t, y, strict=True)]
        agree(soft_merit(torch.tensor(t), step.y, temperature), expected)


def test_the_teacher_is_right_where_its_own_largest_logit_is_the_labels():
    teacher = torch.tensor([[1.0, 2.0, 0.0], [1.0, 2.0, 0.0], [-3.0, -2.0, -1.0], [5.0, 4.0, 4.0]])
    assert correct(teacher, torch.tensor([1, 0, 2, 0])).tolist() == [1, 0, 1, 1]


@pytest.mark.parametrize("method", [DeltaMerit, HardMerit])
def test_right_or_wrong_is_the_teachers_affair_whatever_the_student_says_and_the_temperature_is(method, outputs, agree):
    step, *_, t, y = outputs((6, 4))
    loss = merit_loss(torch.tensor(-t), torch.tensor(t), step.y, method().merit(torch.tensor(t), step.y), 1.0)
    agree(torch.stack(loss), terms_of(merits(method, t, y), -t, t, y))
    for options in ({"temperature": 1e4}, {"temperature": 1e4, "preset": "motakuss"}):
        assert torch.equal(method(**options).merit(torch.tensor(t), step.y), method().merit(torch.tensor(t), step.y))


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("method", METHODS)
def test_the_preset_motakuss_is_the_loop_of_that_implementation(method, temperature, outputs, slope, agree, gradient):
    step, student, s, t, y = outputs((5, 4))
    loss = sum(method(preset="motakuss", temperature=temperature)(step).values())
    agree(loss, motakuss(method, s, t, y, temperature))
    agree(gradient(loss, student), slope(lambda moved: motakuss(method, moved, t, y, temperature), s))


@pytest.mark.parametrize("method", METHODS)
def test_at_a_temperature_of_one_the_preset_motakuss_is_the_default(method, outputs, agree):
    step, _, s, t, y = outputs((5, 4))
    agree(sum(method()(step).values()), motakuss(method, s, t, y, 1.0))


def test_a_double_temperature_is_in_the_divergence_alone_and_leaves_its_factor(outputs, agree):
    step, _, s, t, y = outputs((5, 4))
    found = SoftMerit(temperature=3.0, double_temperature=True)(step)
    weights = merits(SoftMerit, t, y, temperature=3.0)
    agree(found["hard"], terms_of(weights, s, t, y)[0])
    agree(found["soft"], np.mean([m * 9 * divergence(a, b, 9.0) for m, a, b in zip(weights, s, t, strict=True)]))


def test_a_hard_temperature_is_in_the_cross_entropy_alone(outputs, agree):
    step, _, s, t, y = outputs((5, 4))
    found = SoftMerit(temperature=3.0, hard_temperature=True)(step)
    weights = merits(SoftMerit, t, y, temperature=3.0)
    agree(found["hard"], np.mean([(1 - m) * entropy(a, label, 3.0) for m, a, label in zip(weights, s, y, strict=True)]))
    agree(found["soft"], terms_of(weights, s, t, y, 3.0)[1])


def test_an_option_beside_the_preset_wins():
    options = HardMerit(preset="motakuss", hard_temperature=False).options
    assert (options.double_temperature, options.hard_temperature) == (True, False)


@pytest.mark.parametrize("method", METHODS)
def test_the_teacher_and_its_merit_get_no_gradient(method, leaf):
    student, teacher = leaf(4, 3, seed=1), leaf(4, 3, seed=2)
    loss = sum(method()(make_step(student_logits=student, teacher_logits=teacher)).values())
    slopes = torch.autograd.grad(loss, [student, teacher], allow_unused=True)
    assert slopes[0].abs().max() > 0
    assert slopes[1] is None


@pytest.mark.parametrize("method", METHODS)
def test_several_outputs_are_summed_each_with_its_labels_and_its_teacher(method, outputs, leaf, agree):
    step, student, s, t, y = outputs((4, 3))
    head, other = leaf(4, 3, seed=5, dtype=torch.float64), leaf(4, 3, seed=6, dtype=torch.float64).detach()
    both = make_step({"fc": student, "aux": head}, {"fc": torch.tensor(t), "other": other}, labels=step.y)
    a, b = head.detach().numpy(), other.numpy()
    found = method()(both)
    sums = np.add(terms_of(merits(method, t, y), s, t, y), terms_of(merits(method, b, y), a, b, y))
    agree(torch.stack([found["hard"], found["soft"]]), sums)


@pytest.mark.parametrize("method", METHODS)
def test_logits_of_five_hundred_stay_finite(method):
    student = torch.tensor([[500.0, -500.0, 0.0], [500.0, -500.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[-500.0, 500.0, 0.0], [-500.0, 500.0, 0.0]])
    terms = method()(make_step(student_logits=student, teacher_logits=teacher, labels=torch.tensor([1, 0])))
    assert all(torch.isfinite(term) for term in terms.values())
    assert torch.isfinite(torch.autograd.grad(sum(terms.values()), student)[0]).all()


@pytest.mark.parametrize(
    ("method", "options", "fault"),
    [
        (DeltaMerit, {"alpha": 0.95}, r"alpha \+ delta = 1.05.*between 0 and 1: take a delta of at most 0.05"),
        (DeltaMerit, {"alpha": 0.1, "delta": 0.2}, r"alpha - delta = -0.1,.*take a delta of at most 0.1"),
        (DeltaMerit, {"delta": -0.1}, "greater than or equal to 0"),
        (HardMerit, {"alpha": 1.5}, "less than or equal to 1"),
        (HardMerit, {"delta": 0.1}, "no option 'mbd-hard.delta'"),
        (SoftMerit, {"alpha": 0.5}, "no option 'mbd-soft.alpha'"),
        (SoftMerit, {"temperature": 0.0}, "greater than 0"),
        (SoftMerit, {"preset": "motakus"}, "'motakuss'"),
    ],
)
def test_a_wrong_option_is_refused_with_the_way_out(method, options, fault):
    with pytest.raises(SettingsError, match=fault):
        method(**options)


@pytest.mark.parametrize(("alpha", "delta"), [(0.9, 0.1), (0.7, 0.3), (0.1, 0.1), (0.5, 0.5), (0.0, 0.0), (1.0, 0.0)])
def test_weights_of_exactly_nought_and_one_are_allowed(alpha, delta):
    options = DeltaMerit(alpha=alpha, delta=delta).options
    assert (options.alpha, options.delta) == (alpha, delta)


@pytest.mark.parametrize("method", METHODS)
def test_outputs_of_other_classes_are_refused(method, leaf):
    step = make_step(student_logits=leaf(2, 10), teacher_logits=leaf(2, 100).detach())
    with pytest.raises(TapError, match=r"has \[2, 10\].*\[2, 100\].*logits \[B, K\] of the same classes"):
        built(method(), step)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_found_by_its_name_alone(method):
    registry = Registry()
    assert registry.methods(method.name) == [method]
    assert registry.methods(f"kdplugin-mbd:{method.name}") == [method]
    (plugin,) = [plugin for plugin in registry.plugins if plugin.name == method.name]
    assert list(plugin.methods) == [method.name]


def test_the_base_alone_is_no_method():
    with pytest.raises(TypeError, match="abstract"):
        MeritBased()


@pytest.mark.parametrize("method", METHODS)
def test_a_run_has_the_two_terms_of_the_formula_and_none_of_the_engine(method, one_step):
    (terms,), student, teacher, y = one_step([method.name], **{method.name.replace("-", "_"): {"temperature": 2.0}})
    s, t = student["logits"], teacher["logits"]
    hard, soft = terms_of(merits(method, t, y, 2.0), s, t, y, 2.0)
    assert set(terms) == {f"{method.name}.hard", f"{method.name}.soft"}
    assert terms[f"{method.name}.hard"] == pytest.approx(hard, rel=1e-4)
    assert terms[f"{method.name}.soft"] == pytest.approx(soft, rel=1e-3, abs=1e-6)


def test_a_ragged_last_batch_of_one_trains_like_any_other(distil):
    result = distil(["mbd-soft"], data="digits@train=129@test=64")
    assert all(np.isfinite(value) and value > 0 for record in result.history for value in record["terms"].values())


@pytest.mark.slow
def test_both_terms_fall_in_training(distil):
    result = distil(["mbd-delta"], "digits@train=128@test=64", epochs=3, train={"batch_size": 16, "lr": 0.05})
    first, last = (record["terms"] for record in (result.history[0], result.history[-1]))
    assert last["mbd-delta.hard"] < 0.95 * first["mbd-delta.hard"]
    assert last["mbd-delta.soft"] < 0.8 * first["mbd-delta.soft"]
