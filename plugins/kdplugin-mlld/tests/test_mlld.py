from dataclasses import replace

import numpy as np
import pytest
import torch
from kdplugin_mlld import MLLD, instance_loss, relation_losses

from kdengine import SettingsError, TapError
from kdengine.testing import DistillerContract, built, make_step

SHAPES = [(1, 3), (2, 2), (5, 4), (4, 7)]
TEMPERATURES = (2.0, 3.0, 4.0, 5.0, 6.0)


class TestContract(DistillerContract):
    method = "mlld"
    at_equality = {"instance": 0.0, "batch": 0.0, "class": 0.0}  # noqa: RUF012


class TestContractOfTheRelease(DistillerContract):
    method = "mlld"
    options = {"preset": "release"}  # noqa: RUF012


def softmax(logits, temperature=1.0):
    raised = np.exp(logits / temperature - (logits / temperature).max(1, keepdims=True))
    return raised / raised.sum(1, keepdims=True)


def low(values, share=0.5):
    """Which values are at most the given quantile."""
    return values <= np.quantile(values, share)


def levels(student, teacher, temperature, images, classes):
    """The three losses, element by element."""
    q, p = softmax(student, temperature), softmax(teacher, temperature)
    count, width = p.shape
    instance = batch = relation = 0.0
    for i in range(count):
        if images[i]:
            instance += temperature**2 * sum(p[i, k] * np.log(p[i, k] / q[i, k]) for k in range(width)) / count
            batch += sum((q[i] @ q[j] - p[i] @ p[j]) ** 2 for j in range(count)) / count
    for k in range(width):
        if classes[k]:
            relation += sum((q[:, k] @ q[:, n] - p[:, k] @ p[:, n]) ** 2 for n in range(width)) / width
    return np.array([instance, batch, relation])


def loss_of(students, teachers, masked="both", relations="both", temperatures=TEMPERATURES, share=0.5):
    """The terms instance, batch and class of two views, without the weight."""
    p = softmax(teachers[0])
    images, classes = low(p.max(1), share), low(p.sum(0), share)
    total = np.zeros(3)
    for temperature in temperatures:
        for view in (0, 1):
            counts = (images, classes) if view == 0 or masked == "both" else (images | True, classes | True)
            parts = levels(students[view], teachers[view], temperature, *counts)
            total += parts if view == 0 or relations == "both" else parts * [1, 0, 0]
    return total


def losses_of(method, step):
    """The terms instance, batch and class."""
    terms = method(step)
    return torch.stack([terms[name] for name in ("instance", "batch", "class")])


@pytest.fixture
def two_views(leaf):
    """A step in two views; the logits of the students as leaves, and all as float64 arrays."""

    def make(shape, dtype=torch.float64):
        students = [leaf(*shape, seed=n, dtype=dtype) for n in (1, 2)]
        teachers = [(3 * leaf(*shape, seed=n, dtype=dtype)).detach() for n in (3, 4)]
        y = torch.arange(shape[0]) % shape[1]
        first, second = (
            make_step(student_logits=s, teacher_logits=t, labels=y) for s, t in zip(students, teachers, strict=True)
        )
        arrays = [[tensor.detach().double().numpy() for tensor in side] for side in (students, teachers)]
        return replace(first, further=(second,)), students, *arrays

    return make


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "options", [{}, {"masked": "first"}, {"relations": "first"}, {"share": 1.0, "temperatures": (1.0, 4.0)}]
)
def test_the_terms_and_their_gradients_are_those_of_the_formula(shape, options, two_views, slope, agree, gradient):
    step, leaves, students, teachers = two_views(shape)
    agree(losses_of(MLLD(**options), step), 0.9 * loss_of(students, teachers, **options))
    for view in (0, 1):

        def formula(moved, view=view):
            shown = [moved if number == view else logits for number, logits in enumerate(students)]
            return 0.9 * loss_of(shown, teachers, **options).sum()

        agree(gradient(losses_of(MLLD(**options), step).sum(), leaves[view]), slope(formula, students[view]))


@pytest.mark.parametrize("shape", [(4, 7), (16, 100)])
def test_in_float32_they_err_by_no_more_than_rounding(shape, two_views, agree):
    step, _, students, teachers = two_views(shape, torch.float32)
    agree(losses_of(MLLD(), step), 0.9 * loss_of(students, teachers))


def test_the_mask_selects_images_and_does_not_scale_their_mean():
    """Divergences of 0 and d, of which the teacher is least confident of the first: the term is 0, not d / 4."""
    teacher = torch.tensor([[0.1, 0.0, 0.0], [4.0, 0.0, 0.0]])
    student = torch.tensor([[0.1, 0.0, 0.0], [0.0, 4.0, 0.0]])
    p = teacher.softmax(1)
    images = torch.from_numpy(low(p.amax(1).numpy())).float()
    assert images.tolist() == [1, 0]
    assert instance_loss(student, teacher, 2.0, images).item() == 0
    step = make_step(student_logits=student, teacher_logits=teacher)
    assert MLLD(task=0.0)(replace(step, further=(step,)))["instance"].item() == pytest.approx(0, abs=1e-5)
    everything = MLLD(task=0.0, share=1.0)(replace(step, further=(step,)))["instance"]
    assert everything.item() > 1


def test_the_mask_of_classes_selects_rows_of_their_relations():
    q = torch.tensor([[2.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0]])
    p = torch.tensor([[0.0, 0.0, 2.0, 0.0], [0.0, 0.0, 0.0, 2.0]])
    ones = torch.ones(2)
    halves = [relation_losses(q, p, 1.0, (ones, torch.tensor(half)))[1] for half in ([1.0, 1, 0, 0], [0.0, 0, 1, 1])]
    whole = relation_losses(q, p, 1.0, (ones, torch.ones(4)))[1]
    assert all(half > 0 for half in halves)
    assert torch.allclose(sum(halves), whole)


def test_the_confidence_is_that_of_the_first_view(two_views):
    step, *_ = two_views((5, 4))
    other = replace(step.views[1], further=(replace(step, further=()),))
    assert not torch.allclose(MLLD()(step)["instance"], MLLD()(other)["instance"])
    whole = MLLD(share=1.0)
    assert torch.allclose(whole(step)["instance"], whole(other)["instance"])


def test_the_task_counts_on_both_views(two_views, agree):
    step, _, students, _ = two_views((5, 4))
    log_q = np.log(softmax(students[1]))
    method = MLLD()
    agree(method(step)["task"], -0.1 * np.mean([log_q[i, i % 4] for i in range(5)]))
    assert method.task_weight == pytest.approx(0.1)
    assert "task" not in MLLD(task=0.0)(step)


def test_data_without_labels_has_no_task(two_views):
    step, *_ = two_views((5, 4))
    bare = replace(step, targets=None, further=(replace(step.views[1], targets=None, task=None),))
    assert set(MLLD()(bare)) == {"instance", "batch", "class"}


def test_where_a_transform_changes_logits_the_task_sees_them_as_they_are(two_views, agree):
    step, _, students, teachers = two_views((5, 4))
    terms = MLLD(preset="lskd")(step.with_logits(lambda logits: logits / 2, lambda logits: logits / 3))
    log_q = np.log(softmax(students[1]))
    agree(terms["task"], -0.1 * np.mean([log_q[i, i % 4] for i in range(5)]))
    shown = [logits / 2 for logits in students], [logits / 3 for logits in teachers]
    agree(terms["instance"], 9 * loss_of(*shown, temperatures=(2.0, 2.0, 3.0, 5.0, 6.0))[0])


def test_the_preset_release_has_the_terms_of_the_released_code():
    options = MLLD(preset="release").options
    assert (options.masked, options.relations, options.temperatures) == ("first", "first", TEMPERATURES)


@pytest.mark.parametrize("value", [0.0, 1e4])
def test_equal_and_huge_logits_have_finite_gradients(value, gradient):
    student = torch.tensor([[value, -value, 0.0], [0.0, 0.0, 0.0]], requires_grad=True)
    step = make_step(student_logits=student, teacher_logits=torch.tensor([[-value, value, 0.0], [0.0, 0.0, 0.0]]))
    total = sum(MLLD(share=1.0)(replace(step, further=(step,))).values())
    assert torch.isfinite(total)
    assert torch.isfinite(gradient(total, student)).all()


@pytest.mark.parametrize("options", [{"temperatures": ()}, {"temperatures": (0.0,)}, {"share": 0.0}, {"masked": "second"}])
def test_impossible_options_are_refused(options):
    with pytest.raises(SettingsError, match=next(iter(options))):
        MLLD(**options)


def test_taps_that_are_no_logits_are_refused(leaf):
    step = make_step(student={"stage3": leaf(2, 3, 4, 4)}, teacher={"stage3": leaf(2, 3, 4, 4)})
    with pytest.raises(TapError, match=r"logits \[B, K\] of the same classes"):
        built(MLLD(), step)


@pytest.mark.slow
def test_a_run_learns_from_both_views(distil):
    result = distil(
        ["mlld"], "digits@train=128@test=64", epochs=3, train={"batch_size": 16, "lr": 0.05, "second_view": "rand-augment"}
    )
    first, last = (result.history[n]["terms"] for n in (0, -1))
    assert set(first) == {"task", "mlld.task", "mlld.instance", "mlld.batch", "mlld.class"}
    assert first["task"] != pytest.approx(first["mlld.task"], rel=1e-3)
    assert sum(last.values()) < sum(first.values())
