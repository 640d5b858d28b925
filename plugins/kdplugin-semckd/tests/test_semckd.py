import math
from typing import ClassVar

import numpy as np
import pytest
import torch
from kdplugin_semckd import Attention, SemCKD, calibration_loss
from kdplugin_semckd.attention import fold

from kdengine import SettingsError, TapError
from kdengine.testing import DistillerContract, built, make_step

LEVELS = [  # shapes of the student's levels, of the teacher's
    ([(3, 2, 4, 4), (3, 3, 2, 2)], [(3, 2, 4, 4), (3, 3, 2, 2)]),
    ([(5, 2, 2, 2), (5, 3, 2, 1)], [(5, 3, 4, 4), (5, 2, 2, 2)]),  # more images than slots, a larger teacher
]


class TestContract(DistillerContract):
    method = "semckd"


class TestContractOfLinearRegressors(DistillerContract):
    method = "semckd"
    options: ClassVar = {"regressor": "linear", "slots": 4}


def array(tensor):
    return tensor.detach().double().numpy()


def pooled(maps, size):
    """Mean over the boxes that divide a map evenly."""
    out = np.zeros((*maps.shape[:2], *size))
    rows, columns = maps.shape[2] // size[0], maps.shape[3] // size[1]
    for i, j in np.ndindex(*size):
        out[:, :, i, j] = maps[:, :, i * rows : (i + 1) * rows, j * columns : (j + 1) * columns].mean((2, 3))
    return out


def convolved(x, weight):
    """Cross-correlation that keeps the size, one kernel position at a time."""
    margin = weight.shape[2] // 2
    height, width = x.shape[2:]
    x = np.pad(x, [(0, 0), (0, 0), (margin, margin), (margin, margin)])
    out = np.zeros((len(x), len(weight), height, width))
    for i, j in np.ndindex(*weight.shape[2:]):
        out += np.einsum("bchw,dc->bdhw", x[:, :, i : i + height, j : j + width], weight[:, :, i, j])
    return out


def normalised(x, norm):
    mean, variance = x.mean((0, 2, 3), keepdims=True), x.var((0, 2, 3), keepdims=True)
    gain, shift = (array(value)[:, None, None] for value in (norm.weight, norm.bias))
    return (x - mean) / np.sqrt(variance + 1e-5) * gain + shift


def regressed(x, regress):
    """What a bottleneck makes of a map, from its weights alone."""
    first, norm1, _, second, norm2, _, third = regress
    x = np.maximum(normalised(convolved(x, array(first.weight)), norm1), 0)
    x = np.maximum(normalised(convolved(x, array(second.weight)), norm2), 0)
    return convolved(x, array(third.weight))


def embedded(maps, embedding, slots):
    """Query or key of every image: its similarities, two linear layers, and length 1."""
    first, _, second = embedding.layers
    vectors = []
    for image in maps:
        row = [0.0] * slots
        for place, other in enumerate(maps):
            row[place % slots] += float(image.ravel() @ other.ravel())
        hidden = np.maximum(array(first.weight) @ row + array(first.bias), 0)
        vector = array(second.weight) @ hidden + array(second.bias)
        vectors.append(vector / math.sqrt(float(vector @ vector)))
    return vectors


def attention_of(students, teachers, attention):
    """alpha(b, i, j), written out."""
    queries = [embedded(x, e, attention.slots) for x, e in zip(students, attention.queries, strict=True)]
    keys = [embedded(x, e, attention.slots) for x, e in zip(teachers, attention.keys, strict=True)]
    out = np.zeros((len(students[0]), len(queries), len(keys)))
    for b, i, j in np.ndindex(*out.shape):
        out[b, i, j] = math.exp(float(queries[i][b] @ keys[j][b]))
    return out / out.sum(2, keepdims=True)


def loss_of(students, teachers, method):
    alpha = attention_of(students, teachers, method.attention)
    total = 0.0
    for b, i, j in np.ndindex(*alpha.shape):
        size = [min(sides) for sides in zip(students[i].shape[2:], teachers[j].shape[2:], strict=True)]
        error = (
            regressed(pooled(students[i], size), method.regressors[i * alpha.shape[2] + j])[b] - pooled(teachers[j], size)[b]
        )
        total += alpha[b, i, j] * float((error**2).mean())
    return total / (alpha.shape[0] * alpha.shape[1])


@pytest.fixture
def levels(leaf):
    """A step on random maps, and the student's leaves."""

    def make(shapes):
        students = {f"stage{n}": leaf(*shape, seed=n) for n, shape in enumerate(shapes[0])}
        teachers = {f"stage{n}": leaf(*shape, seed=10 + n).detach() for n, shape in enumerate(shapes[1])}
        return make_step(students, teachers), list(students.values()), list(teachers.values())

    return make


def semckd(step, **options):
    torch.manual_seed(3)
    method = built(SemCKD(**options), step)
    with torch.no_grad():
        for value in method.regressors.parameters():
            value.add_(0.1 * torch.randn_like(value))  # batch normalisation begins at 1 and 0, where much cancels
    return method


@pytest.mark.parametrize("shapes", LEVELS)
def test_loss_and_gradient_are_those_of_the_formula(shapes, levels, slope, agree, gradient):
    step, students, teachers = levels(shapes)
    method = semckd(step, slots=4)
    s, t = [array(x) for x in students], [array(x) for x in teachers]
    loss = method(step)["calibration"]
    agree(loss, 40 * loss_of(s, t, method))
    agree(gradient(loss, students[1]), slope(lambda moved: 40 * loss_of([s[0], moved], t, method), s[1]))


def test_attention_is_a_distribution_over_the_levels_of_the_teacher_for_every_image(leaf, agree):
    torch.manual_seed(0)
    attention = Attention(2, 3, 8)
    students, teachers = [leaf(5, 2, 3, 3, seed=n) for n in range(2)], [leaf(5, 4, 2, 2, seed=9 + n).detach() for n in range(3)]
    weights = attention(students, teachers)
    assert weights.shape == (5, 2, 3)
    agree(weights, attention_of([array(x) for x in students], [array(x) for x in teachers], attention))
    assert weights.detach().std(0).min() > 1e-4, "every image has weights of its own"


def test_a_batch_as_large_as_the_slots_keeps_its_similarities_as_they_are(leaf):
    similar = leaf(4, 4).detach()
    assert torch.equal(fold(similar, 4), similar)


def test_smaller_batches_leave_slots_empty_and_larger_ones_share_them(leaf):
    similar = leaf(3, 3).detach()
    assert torch.equal(fold(similar, 5), torch.cat([similar, torch.zeros(3, 2)], 1))
    similar = leaf(5, 5).detach()
    expected = torch.stack([similar[:, 0] + similar[:, 2] + similar[:, 4], similar[:, 1] + similar[:, 3]], 1)
    assert torch.allclose(fold(similar, 2), expected)


@pytest.mark.parametrize("count", [1, 7, 64, 65])
def test_one_attention_serves_batches_of_every_size(count, leaf):
    """The authors' code has as many inputs as a full batch has images, and must drop a ragged last one."""
    step = make_step({"stage1": leaf(8, 2, 2, 2)}, {"stage1": leaf(8, 3, 2, 2).detach()})
    method = semckd(step)
    other = make_step({"stage1": leaf(count, 2, 2, 2)}, {"stage1": leaf(count, 3, 2, 2).detach()})
    loss = method(other)["calibration"]
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(value.grad).all() for value in method.parameters() if value.grad is not None)


def test_the_loss_is_a_mean_over_images_and_levels_of_the_student(leaf, agree):
    errors, attention = leaf(4, 2, 3).detach().square(), torch.softmax(leaf(4, 2, 3, seed=1).detach(), 2)
    agree(calibration_loss(errors, attention), (array(errors) * array(attention)).sum() / 8)


def test_a_single_level_has_all_attention(leaf, agree):
    step = make_step({"stage1": leaf(3, 2, 2, 2)}, {"stage1": leaf(3, 3, 2, 2, seed=1).detach()})
    method = semckd(step, beta=1.0)
    error = regressed(array(step.student["stage1"]), method.regressors[0]) - array(step.teacher["stage1"])
    agree(method(step)["calibration"], (error**2).mean())


def test_zero_features_give_finite_gradients(leaf):
    student = torch.zeros(3, 2, 2, 2, requires_grad=True)
    step = make_step({"stage1": student}, {"stage1": torch.zeros(3, 3, 2, 2)})
    method = semckd(step)
    with torch.no_grad():
        for embedding in (*method.attention.queries, *method.attention.keys):
            embedding.layers[2].bias.zero_()
            embedding.layers[0].bias.fill_(-1.0)  # then query and key have no length
    method(step)["calibration"].backward()
    assert torch.isfinite(student.grad).all()
    assert all(torch.isfinite(value.grad).all() for value in method.parameters())


@pytest.mark.parametrize("size", [1e-12, 1e12])
def test_features_of_every_size_give_finite_attention_and_gradients(size, leaf, gradient):
    torch.manual_seed(0)
    attention = Attention(1, 2, 8)
    student = (size * leaf(5, 2, 3, 3).detach()).requires_grad_()
    weights = attention([student], [size * leaf(5, 4, 2, 2, seed=n).detach() for n in (1, 2)])
    assert weights.sum(2).detach().flatten().tolist() == pytest.approx([1.0] * 5, rel=1e-5)
    assert torch.isfinite(gradient(weights[:, :, 0].sum(), student)).all()
    assert weights.detach().std(2).min() > 0, "a query without length would attend to all levels alike"


def test_the_preset_imagenet_has_the_weight_of_the_authors(levels, agree):
    step, students, teachers = levels(LEVELS[0])
    method = semckd(step, preset="imagenet")
    agree(method(step)["calibration"], 50 * loss_of([array(x) for x in students], [array(x) for x in teachers], method))


def test_linear_regressors_are_one_convolution_each(levels):
    step, *_ = levels(LEVELS[0])
    regressors = semckd(step, regressor="linear").regressors
    shapes = [list(value.shape) for value in regressors.parameters() if value.ndim == 4]
    assert shapes == [[2, 2, 1, 1], [3, 2, 1, 1], [2, 3, 1, 1], [3, 3, 1, 1]]


def test_the_task_keeps_its_full_weight_and_there_is_no_phase_of_its_own():
    assert SemCKD().task_weight == 1
    assert list(SemCKD().phases()) == []


def test_too_few_slots_are_refused():
    with pytest.raises(SettingsError, match="greater than or equal to 4"):
        SemCKD(slots=3)


def test_taps_that_hold_no_maps_are_refused(leaf):
    step = make_step({"embedding": leaf(2, 64)}, {"embedding": leaf(2, 64)})
    with pytest.raises(TapError, match=r"has \[2, 64\].*maps \[B, C, H, W\]"):
        built(SemCKD(), step)


@pytest.mark.slow
def test_a_run_with_a_ragged_last_batch_comes_closer_to_the_teacher(distil):
    result = distil(["semckd"], data="digits@train=65@test=16", epochs=2, train={"batch_size": 16}, semckd={"beta": 1.0})
    losses = [record["terms"]["semckd.calibration"] for record in result.history]
    assert losses[-1] < losses[0]
