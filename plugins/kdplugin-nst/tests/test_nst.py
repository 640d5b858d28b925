import math
from itertools import product

import numpy as np
import pytest
import torch
from kdplugin_nst import NeuronSelectivity, selectivity_loss
from torch.utils._python_dispatch import TorchDispatchMode

from kdengine import SettingsError, TapError
from kdengine.testing import built, make_step

SHAPES = [
    ((1, 3, 2, 2), (1, 3, 2, 2)),
    ((2, 2, 4, 4), (2, 5, 4, 4)),  # other widths
    ((2, 3, 4, 4), (2, 4, 2, 2)),  # a larger student
    ((3, 2, 2, 2), (3, 3, 4, 4)),  # a larger teacher
    ((2, 6, 2, 2), (2, 7, 2, 2)),  # fewer places than channels
    ((2, 4, 2, 2), (2, 5, 2, 2)),  # as many places as channels
    ((2, 2, 4, 2), (2, 3, 2, 4)),  # larger in one direction only
]
KERNELS = [{}, {"degree": 3, "offset": 0.5}, {"degree": 2, "offset": 1.0}, {"kernel": "linear"}, {"kernel": "gaussian"}]


def pooled(maps, size):
    """Mean over the boxes that divide a map evenly: [B, C, H, W] -> [B, C, *size]."""
    out = np.zeros((*maps.shape[:2], *size))
    rows, columns = maps.shape[2] // size[0], maps.shape[3] // size[1]
    for i, j in np.ndindex(*size):
        out[:, :, i, j] = maps[:, :, i * rows : (i + 1) * rows, j * columns : (j + 1) * columns].mean((2, 3))
    return out


def patterns(image):
    """The channels of one image, each scaled to length 1; a dead one stays zero."""
    lengths = [math.sqrt(float((channel**2).sum())) for channel in image]
    return [channel.ravel() / (length or 1.0) for channel, length in zip(image, lengths, strict=True)]


def channels(student, teacher):
    """For every image, the patterns of both networks in the smaller of their sizes."""
    size = [min(sides) for sides in zip(student.shape[2:], teacher.shape[2:], strict=True)]
    for images in zip(pooled(student, size), pooled(teacher, size), strict=True):
        yield [patterns(image) for image in images]


def bandwidths(student, teacher):
    """sigma^2 of every image: the mean squared distance of all pairs of different channels."""
    found = []
    for s, t in channels(student, teacher):
        both = s + t
        pairs = [(i, j) for i, j in product(range(len(both)), repeat=2) if i != j]
        found.append(math.fsum(float(((both[i] - both[j]) ** 2).sum()) for i, j in pairs) / len(pairs))
    return found


def value_of(x, y, variance, kernel="poly", degree=2, offset=0.0):
    if kernel == "gaussian":
        return math.exp(-float(((x - y) ** 2).sum()) / (2 * variance))
    return float(x @ y) if kernel == "linear" else (float(x @ y) + offset) ** degree


def loss_of(student, teacher, variances=None, **options):
    """MMD^2, mean over the images, pair of channels by pair of channels."""
    variances = variances or bandwidths(student, teacher)
    total = 0.0
    for (s, t), variance in zip(channels(student, teacher), variances, strict=True):
        for factor, left, right in ((1, t, t), (1, s, s), (-2, s, t)):
            values = [value_of(x, y, variance, **options) for x, y in product(left, right)]
            total += factor * math.fsum(values) / len(values)
    return total / len(student)


def step_of(student, teacher):
    return make_step(student={"stage3": student}, teacher={"stage3": teacher})


def arrays(*tensors):
    return [tensor.detach().double().numpy() for tensor in tensors]


@pytest.mark.parametrize("options", KERNELS, ids=str)
@pytest.mark.parametrize("shapes", SHAPES)
def test_the_loss_and_its_gradient_are_those_of_the_formula(shapes, options, leaf, slope, agree, gradient):
    student, teacher = leaf(*shapes[0], seed=1), leaf(*shapes[1], seed=2).detach()
    s, t = arrays(student, teacher)
    variances = bandwidths(s, t)
    step = step_of(student, teacher)
    loss = built(NeuronSelectivity(**options), step)(step)["selectivity"]
    assert loss.shape == ()
    agree(loss, 50 * loss_of(s, t, **options))
    agree(gradient(loss, student), slope(lambda moved: 50 * loss_of(moved, t, variances, **options), s))


def test_the_stages_are_summed(leaf, agree):
    pairs = [(leaf(2, 2, side, side, seed=side), leaf(2, 3, side, side, seed=side + 1).detach()) for side in (4, 2)]
    step = make_step(*(dict(zip(["stage1", "stage2"], side, strict=True)) for side in zip(*pairs, strict=True)))
    agree(NeuronSelectivity()(step)["selectivity"], 50 * sum(loss_of(*arrays(*pair)) for pair in pairs))


@pytest.mark.parametrize(
    ("preset", "tap", "weight", "options"),
    [
        ("authors", "stage-1.pre", 50, {}),
        ("gaussian", "stages", 100, {"kernel": "gaussian"}),
        ("zoo", "stage-1", 10, {}),
    ],
)
def test_a_preset_is_the_variant_of_its_implementation(preset, tap, weight, options, leaf, agree):
    method = NeuronSelectivity(preset=preset)
    assert list(method.taps_in("joint")) == [tap]
    student, teacher = leaf(2, 3, 3, 3, seed=1), leaf(2, 4, 3, 3, seed=2).detach()
    agree(method(step_of(student, teacher))["selectivity"], weight * loss_of(*arrays(student, teacher), **options))


@pytest.mark.parametrize("kernel", ["poly", "linear", "gaussian"])
def test_the_order_scale_and_sign_of_channels_count_as_the_kernel_says(kernel, leaf):
    maps = leaf(2, 4, 5, 5).detach()
    assert float(selectivity_loss(37 * maps[:, [2, 0, 3, 1]], maps, kernel)) == pytest.approx(0, abs=1e-6)
    turned = float(selectivity_loss(-maps, maps, kernel))
    assert (turned == pytest.approx(0, abs=1e-6)) == (kernel == "poly")


def test_the_teacher_gets_no_gradient(leaf):
    for kernel in ("poly", "linear", "gaussian"):
        student, teacher = leaf(2, 3, 4, 4, seed=1), leaf(2, 4, 4, 4, seed=2)
        selectivity_loss(student, teacher, kernel).backward()
        assert student.grad.abs().max() > 0
        assert teacher.grad is None


@pytest.mark.parametrize("options", KERNELS, ids=str)
def test_a_dead_channel_follows_the_formula_and_gets_no_gradient(options, leaf, agree, gradient):
    student, teacher = leaf(2, 3, 4, 4, seed=1).detach(), leaf(2, 4, 4, 4, seed=2).detach()
    student[:, 1] = 0
    teacher[0, 2] = 0
    student.requires_grad_()
    loss = selectivity_loss(student, teacher, **options)
    agree(loss, loss_of(*arrays(student, teacher), **options))
    moved = gradient(loss, student)
    assert moved[:, 1].abs().max() == 0
    assert 0 < moved.abs().max() < 10


@pytest.mark.parametrize("options", KERNELS, ids=str)
def test_maps_that_are_dead_altogether_give_a_finite_loss_and_no_gradient(options, leaf, gradient):
    student = torch.zeros(2, 3, 4, 4, requires_grad=True)
    for teacher in (leaf(2, 4, 4, 4).detach(), torch.zeros(2, 4, 4, 4)):
        loss = selectivity_loss(student, teacher, **options)
        assert torch.isfinite(loss)
        assert gradient(loss, student).abs().max() == 0


def test_channels_that_all_coincide_leave_the_gaussian_kernel_finite(leaf, gradient):
    student = leaf(2, 1, 4, 4).detach().expand(2, 3, 4, 4).clone().requires_grad_()
    loss = selectivity_loss(student, 2 * student.detach(), "gaussian")
    assert loss.item() == pytest.approx(0, abs=1e-2)
    assert torch.isfinite(gradient(loss, student)).all()


class Largest(TorchDispatchMode):
    """Notes the number of elements of the largest tensor that is made inside."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.size = max(self.size, out.numel())
        return out


@pytest.mark.parametrize(("kernel", "size"), [("poly", 2 * 16 * 24), ("linear", 2 * 24 * 9), ("gaussian", 2 * 40 * 40)])
def test_no_tensor_holds_the_places_of_every_pair_of_channels(kernel, size, leaf):
    student, teacher = leaf(2, 16, 3, 3, seed=1), leaf(2, 24, 3, 3, seed=2).detach()
    with Largest() as largest:
        selectivity_loss(student, teacher, kernel).backward()
    assert largest.size <= size


def test_the_task_keeps_its_full_weight_and_there_is_no_phase_of_its_own():
    assert NeuronSelectivity().task_weight == 1
    assert list(NeuronSelectivity().phases()) == []


@pytest.mark.parametrize(
    ("options", "fault"),
    [({"kernal": "poly"}, "'kernel'"), ({"kernel": "rbf"}, "'gaussian'"), ({"degree": 0}, "than or equal to 1")],
)
def test_a_wrong_option_is_refused_with_the_way_out(options, fault):
    with pytest.raises(SettingsError, match=fault):
        NeuronSelectivity(**options)


def test_a_run_records_the_sum_over_all_stages_beside_the_whole_task(one_step):
    (terms,), student, teacher, y = one_step(["nst"], count=2)
    expected = 50 * sum(loss_of(student[name], teacher[name]) for name in ("stage1", "stage2", "stage3"))
    assert terms["nst.selectivity"] == pytest.approx(expected, rel=1e-3)
    z = student["logits"]
    assert terms["task"] == pytest.approx(np.mean(np.log(np.exp(z).sum(1)) - z[np.arange(len(y)), y]), rel=1e-4)


def test_used_twice_each_reads_its_own_taps_also_across_stages(one_step):
    (terms,), student, teacher, _ = one_step(
        ["nst", "nst"], count=2, nst={"taps": ["stage3"]}, nst_2={"taps": ["stage3=stage2"], "kernel": "linear"}
    )
    assert terms["nst.selectivity"] == pytest.approx(50 * loss_of(student["stage3"], teacher["stage3"]), rel=1e-3)
    expected = 50 * loss_of(student["stage3"], teacher["stage2"], kernel="linear")
    assert terms["nst-2.selectivity"] == pytest.approx(expected, rel=1e-3)


def test_a_run_with_the_preset_authors_reads_the_last_stage_before_its_activation(distil):
    result = distil(["nst"], data="digits@train=16@test=8", nst={"preset": "authors"})
    assert result.history[0]["terms"]["nst.selectivity"] > 0


def test_a_run_refuses_taps_that_hold_no_maps(distil):
    with pytest.raises(TapError, match=r"has \[2, 64\].*maps \[B, C, H, W\]"):
        distil(["nst"], nst={"taps": "embedding"})


def test_a_ragged_last_batch_of_one_trains_like_any_other(distil):
    result = distil(["nst"], data="digits@train=65@test=8", train={"batch_size": 64})
    assert all(np.isfinite(value) and value > 0 for record in result.history for value in record["terms"].values())


@pytest.mark.slow
def test_selectivity_comes_closer_to_the_teachers_in_training(distil):
    result = distil(["nst"], "digits@train=128@test=64", epochs=2, train={"batch_size": 16})
    losses = [record["terms"]["nst.selectivity"] for record in result.history]
    assert losses[-1] < 0.7 * losses[0]
