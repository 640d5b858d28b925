from typing import ClassVar

import numpy as np
import pytest
import torch
from kdplugin_fitnet import FitNet, hint_loss

from kdengine import SettingsError, TapError, hookimpl
from kdengine.testing import DistillerContract, built, make_step

SIZES = [  # student, teacher, options, kernel, stride: what the regressor of these two maps must be
    ((1, 3, 4, 4), (1, 5, 4, 4), {}, "Conv2d", (1, 1), (1, 1)),
    ((2, 3, 4, 4), (2, 5, 4, 4), {"kernel": 3}, "Conv2d", (3, 3), (1, 1)),
    ((2, 3, 6, 5), (2, 2, 6, 5), {"kernel": 5}, "Conv2d", (5, 5), (1, 1)),
    ((2, 3, 8, 6), (2, 4, 4, 3), {}, "Conv2d", (3, 3), (2, 2)),
    ((2, 3, 7, 7), (2, 4, 4, 4), {"kernel": 3}, "Conv2d", (3, 3), (2, 2)),
    ((2, 3, 2, 3), (2, 4, 4, 6), {}, "ConvTranspose2d", (4, 4), (2, 2)),
    ((2, 3, 6, 6), (2, 4, 2, 3), {}, "Conv2d", (1, 1), (1, 1)),
    ((2, 3, 8, 4), (2, 4, 4, 4), {}, "Conv2d", (1, 1), (1, 1)),
]


class TestContract(DistillerContract):
    method = "fitnet"


class TestContractOnTheTeachersSide(DistillerContract):
    method = "fitnet"
    options: ClassVar = {"side": "teacher"}
    at_equality: ClassVar = {"hint": 0.0}  # maps of one shape are compared as they are


def convolved(x, weight, bias, stride, padding):
    """Cross-correlation, one kernel position at a time: [B, C, H, W] -> [B, D, H', W']."""
    x = np.pad(x, [(0, 0), (0, 0), (padding, padding), (padding, padding)])
    rows, columns = weight.shape[2:]
    high, wide = (x.shape[2] - rows) // stride + 1, (x.shape[3] - columns) // stride + 1
    out = np.zeros((len(x), len(weight), high, wide)) + bias[:, None, None]
    for i, j in np.ndindex(rows, columns):
        seen = x[:, :, i : i + stride * high : stride, j : j + stride * wide : stride]
        out += np.einsum("bchw,dc->bdhw", seen, weight[:, :, i, j])
    return out


def transposed(x, weight, bias, stride, padding):
    """Every place of x paints the kernel, times its value, into a map that is ``stride`` times as large."""
    rows, columns = weight.shape[2:]
    high, wide = (x.shape[2] - 1) * stride + rows, (x.shape[3] - 1) * stride + columns
    out = np.zeros((len(x), weight.shape[1], high, wide))
    for i, j in np.ndindex(*x.shape[2:]):
        painted = np.einsum("bc,cdkl->bdkl", x[:, :, i, j], weight)
        out[:, :, stride * i : stride * i + rows, stride * j : stride * j + columns] += painted
    return out[:, :, padding : high - padding, padding : wide - padding] + bias[:, None, None]


def normalised(x, gain, shift):
    """Batch normalisation with the batch's own statistics."""
    mean, variance = x.mean((0, 2, 3), keepdims=True), x.var((0, 2, 3), keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-5) * gain[:, None, None] + shift[:, None, None]


def averaged(x, size):
    """Mean over the boxes that divide a map evenly."""
    rows, columns = x.shape[2] // size[0], x.shape[3] // size[1]
    out = np.zeros((*x.shape[:2], *size))
    for i, j in np.ndindex(*size):
        out[:, :, i, j] = x[:, :, i * rows : (i + 1) * rows, j * columns : (j + 1) * columns].mean((2, 3))
    return out


def regressed(x, regressor, size):
    """What a regressor of the student's side makes of a map, from its weights alone."""
    layer, norm, *rectifier = regressor.change
    values = [tensor.detach().double().numpy() for tensor in (layer.weight, layer.bias, norm.weight, norm.bias)]
    move = transposed if type(layer).__name__ == "ConvTranspose2d" else convolved
    out = normalised(move(x, *values[:2], layer.stride[0], layer.padding[0]), *values[2:])
    out = np.maximum(out, 0) if rectifier else out
    return out if out.shape[2:] == tuple(size) else averaged(out, size)


def mean_of_squares(student, teacher):
    return sum(float(value) ** 2 for value in (student - teacher).ravel()) / student.size


def step_of(student, teacher, rectified=True):
    return make_step({"stage2": student}, {"stage2": teacher}, rectified={"stage2"} if rectified else ())


def fitnet(step, **options):
    """FitNet with regressors for a step."""
    torch.manual_seed(3)
    method = built(FitNet(**options), step)
    with torch.no_grad():
        for value in method.parameters():
            value.add_(0.1 * torch.randn_like(value))  # batch normalisation begins at 1 and 0, where much cancels
    return method


@pytest.mark.parametrize(("student_shape", "teacher_shape", "options", "kind", "kernel", "stride"), SIZES)
def test_the_regressor_follows_from_the_sizes(student_shape, teacher_shape, options, kind, kernel, stride):
    step = step_of(torch.zeros(student_shape), torch.zeros(teacher_shape))
    layer = fitnet(step, **options).regressors[0].change[0]
    assert (type(layer).__name__, layer.kernel_size, layer.stride) == (kind, kernel, stride)


@pytest.mark.parametrize("rectified", [True, False])
@pytest.mark.parametrize(("student_shape", "teacher_shape", "options", "kind", "kernel", "stride"), SIZES)
def test_the_hint_and_its_gradient_are_those_of_the_formula(
    student_shape, teacher_shape, options, kind, kernel, stride, rectified, leaf, slope, agree, gradient
):
    student = leaf(*student_shape, seed=1, dtype=torch.float64)
    teacher = leaf(*teacher_shape, seed=2, rectified=rectified, dtype=torch.float64).detach()
    step = step_of(student, teacher, rectified)
    method = fitnet(step, **options).double()
    s, t = student.detach().numpy(), teacher.numpy()

    def formula(moved):
        return mean_of_squares(regressed(moved, method.regressors[0], t.shape[2:]), t)

    loss = method(step)["hint"]
    agree(loss, formula(s))
    agree(gradient(loss, student), slope(formula, s))


def test_the_regressor_ends_in_a_rectifier_only_where_the_teachers_map_came_out_of_one():
    steps = [step_of(torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 4, 4), rectified) for rectified in (True, False)]
    kinds = [[type(layer).__name__ for layer in fitnet(step).regressors[0].change] for step in steps]
    assert kinds == [["Conv2d", "_BatchNorm", "ReLU"], ["Conv2d", "_BatchNorm"]]


def test_the_gradient_reaches_the_regressors_own_weights(leaf, slope, agree, gradient):
    student, teacher = (leaf(2, width, 4, 4, seed=width, dtype=torch.float64).detach() for width in (3, 2))
    step = step_of(student, teacher)
    method = fitnet(step, kernel=3).double()
    s, t = student.numpy(), teacher.numpy()
    layer, norm, _ = method.regressors[0].change
    values = [tensor.detach().double().numpy() for tensor in (layer.bias, norm.weight, norm.bias)]

    def formula(weight):
        hint = np.maximum(normalised(convolved(s, weight, values[0], 1, 1), *values[1:]), 0)
        return mean_of_squares(hint, t)

    loss = method(step)["hint"]
    agree(gradient(loss, layer.weight), slope(formula, layer.weight.detach().numpy()))


@pytest.mark.parametrize(
    ("student", "teacher", "count"), [(64, 128, 74_112), (32, 64, 18_624), (32, 128, 37_248), (128, 512, 591_360)]
)
def test_a_kernel_of_three_gives_the_regressors_of_motakuss(student, teacher, count):
    method = fitnet(step_of(torch.zeros(2, student, 7, 7), torch.zeros(2, teacher, 7, 7)), preset="motakuss")
    assert sum(parameter.numel() for parameter in method.parameters()) == count
    assert [phase.epochs for phase in method.phases()] == [1.0]


@pytest.mark.parametrize("shape", [(1, 3, 2, 2), (2, 4, 5, 3)])
def test_sum_chw_sums_over_an_image_and_averages_over_the_batch(shape, leaf, agree, gradient):
    student, teacher = leaf(*shape, seed=1), leaf(*shape, seed=2).detach()
    difference = (student.detach() - teacher).double().numpy()
    loss = hint_loss(student, teacher, "sum_chw")
    agree(loss, sum(float(value) ** 2 for value in difference.ravel()) / shape[0])
    agree(gradient(loss, student), 2 * difference / shape[0])


def test_on_the_teachers_side_equal_widths_need_no_regressor(leaf, agree):
    student, teacher = leaf(2, 3, 4, 4, seed=1), leaf(2, 3, 4, 4, seed=2).detach()
    step = step_of(student, teacher)
    method = fitnet(step, side="teacher")
    assert list(method.parameters()) == []
    expected = mean_of_squares(student.detach().double().numpy(), teacher.double().numpy())
    agree(method(step)["hint"], expected)


def test_on_the_teachers_side_other_widths_pass_a_linear_map_without_bias(leaf, slope, agree, gradient):
    student, teacher = leaf(2, 3, 2, 2, seed=1), leaf(2, 5, 4, 4, seed=2).detach()
    step = step_of(student, teacher)
    method = fitnet(step, side="teacher", reduction="sum_chw")
    (weight,) = method.parameters()
    s, t, w = (tensor.detach().double().numpy() for tensor in (student, teacher, weight))

    def formula(moved):
        mapped = averaged(np.einsum("bchw,dc->bdhw", t, w[:, :, 0, 0]), (2, 2))
        return mean_of_squares(moved, mapped) * 3 * 2 * 2

    loss = method(step)["hint"]
    agree(loss, formula(s))
    agree(gradient(loss, student), slope(formula, s))
    assert gradient(method(step)["hint"], weight).abs().max() > 0


def test_hints_come_first_in_two_phases_and_beside_the_task_in_one():
    two, one = FitNet(), FitNet(mode="joint")
    assert [(phase.name, phase.epochs, phase.task) for phase in two.phases()] == [("hint", 0.4, False)]
    assert (two.taps_in("hint"), two.taps_in("joint")) == (("stage2",), None)
    assert (list(one.phases()), one.taps_in("joint")) == ([], ("stage2",))
    assert two.task_weight == one.task_weight == 1


@pytest.mark.parametrize(
    ("preset", "facts"),
    [
        ("sseung", {"side": "teacher", "reduction": "mean", "taps": ("stage2", "stage3"), "mode": "two_phase"}),
        ("bhheo", {"side": "teacher", "reduction": "sum_chw", "taps": ("stages",), "mode": "two_phase"}),
        ("motakuss", {"side": "student", "reduction": "mean", "kernel": 3, "hint_epochs": 1.0}),
        ("repdistiller", {"side": "student", "reduction": "mean", "mode": "joint", "weight": 100.0}),
    ],
)
def test_a_preset_is_the_variant_of_its_implementation(preset, facts):
    options = FitNet(preset=preset).options.model_dump()
    assert {name: options[name] for name in facts} == facts


def test_another_kernel_is_refused():
    with pytest.raises(SettingsError, match="1, 3 or 5"):
        FitNet(kernel=2)


def test_taps_that_hold_no_maps_are_refused(leaf):
    with pytest.raises(TapError, match=r"has \[2, 64\].*maps \[B, C, H, W\]"):
        built(FitNet(), step_of(leaf(2, 64), leaf(2, 64)))


def test_a_run_records_the_hint_of_stage_2_first_and_the_task_alone_afterwards(one_step):
    method = FitNet(hint_epochs=1)
    (hints, task), student, teacher, _ = one_step([method])
    s, t = student["stage2"], teacher["stage2"]
    assert set(hints) == {"fitnet.hint"}
    assert set(task) == {"task"}
    assert hints["fitnet.hint"] == pytest.approx(mean_of_squares(regressed(s, method.regressors[0], t.shape[2:]), t), rel=1e-3)


def test_used_twice_each_reads_its_own_taps_also_across_stages(one_step):
    methods = [
        FitNet(mode="joint", taps=["stage2.pre=stage1"], kernel=3),
        FitNet(mode="joint", taps=["stage3=stage2"], weight=2.0),
    ]
    (terms,), student, teacher, _ = one_step(methods)
    assert set(terms) == {"task", "fitnet.hint", "fitnet-2.hint"}
    t = teacher["stage2"]
    hint = mean_of_squares(regressed(student["stage3"], methods[1].regressors[0], t.shape[2:]), t)
    assert terms["fitnet-2.hint"] == pytest.approx(2 * hint, rel=1e-3)
    assert type(methods[0].regressors[0].change[0]).__name__ == "ConvTranspose2d"


def test_taps_before_the_activation_make_a_regressor_without_rectifier(distil):
    method = FitNet(taps=["stage2.pre"], hint_epochs=1)
    distil([method], data="digits@train=16@test=8")
    assert [type(layer).__name__ for layer in method.regressors[0].change] == ["Conv2d", "_BatchNorm"]


def test_a_single_value_a_channel_is_normalised_by_the_running_statistics_which_stay(leaf, agree):
    student, teacher = leaf(1, 3, 1, 1, seed=1), leaf(1, 5, 1, 1, seed=2, rectified=True).detach()
    step = step_of(student, teacher)
    method = fitnet(step)
    layer, norm, _ = method.regressors[0].change
    with torch.no_grad():
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.5, 2)
    values = (student, teacher, layer.weight, layer.bias, norm.running_mean, norm.running_var, norm.weight, norm.bias)
    s, t, weight, bias, mean, variance, gain, shift = (value.detach().double().numpy() for value in values)
    mixed = weight[:, :, 0, 0] @ s[0, :, 0, 0] + bias
    hint = np.maximum((mixed - mean) / np.sqrt(variance + 1e-5) * gain + shift, 0)
    agree(method(step)["hint"], mean_of_squares(hint, t[0, :, 0, 0]))
    assert torch.equal(norm.running_var, torch.from_numpy(variance).float())


def test_a_last_batch_of_one_image_trains_like_any_other_where_the_maps_have_one_place(distil, networks):
    student, teacher = networks("cnn16", "cnn12")
    options = {"taps": "stage4", "hint_epochs": 1}
    fixed = {"batch_size": 8}
    result = distil(["fitnet"], "digits@train=9@test=8", student=student, teacher=teacher, train=fixed, fitnet=options)
    assert [record["phase"] for record in result.history] == ["hint", "joint"]
    assert all(np.isfinite(value) for record in result.history for value in record["terms"].values())


def test_the_preset_bhheo_sums_plain_squares_over_three_stages(one_step):
    method = FitNet(preset="bhheo", hint_epochs=1)
    (hints, _), student, teacher, _ = one_step([method])
    expected = sum(((student[name] - teacher[name]) ** 2).sum() / 8 for name in ("stage1", "stage2", "stage3"))
    assert hints["fitnet.hint"] == pytest.approx(expected, rel=1e-3)


class Watch:
    """An observer that keeps the student's weights at the end of each epoch, by the name of the phase."""

    def __init__(self):
        self.weights = {}

    @hookimpl
    def kdengine_after_epoch(self, run, record):
        lane = run.lane
        self.weights[record["phase"]] = {name: value.clone() for name, value in lane.student.state_dict().items()}


def test_hints_move_nothing_above_the_hint_and_the_task_moves_all(distil, networks):
    (student,) = networks("resnet8")
    before, watch = {name: value.clone() for name, value in student.state_dict().items()}, Watch()
    distil(["fitnet"], "digits@train=32@test=8", student=student, fitnet={"hint_epochs": 1}, observers=[watch])
    moved = {
        phase: {name for name, value in weights.items() if not torch.equal(value, before[name])}
        for phase, weights in watch.weights.items()
    }
    assert {name.split(".")[0] for name in moved["hint"]} == {"conv1", "bn1", "layer1", "layer2"}
    assert moved["joint"] == set(before)


def test_epochs_of_hints_are_a_number_or_a_share_of_the_run(distil, tmp_path):
    result = distil(["fitnet"], data="digits@train=16@test=8", epochs=3, fitnet={"hint_epochs": 0.4})
    assert [record["phase"] for record in result.history] == ["hint", "hint", "joint", "joint", "joint"]


@pytest.mark.slow
def test_no_epochs_of_hints_is_plain_training(distil):
    result = distil(["fitnet"], data="digits@train=16@test=8", fitnet={"hint_epochs": 0})
    assert [set(record["terms"]) for record in result.history] == [{"task"}]


@pytest.mark.slow
def test_the_students_middle_comes_closer_to_the_teachers_in_training(distil):
    result = distil(["fitnet"], "digits@train=128@test=64", train={"batch_size": 16, "lr": 0.1}, fitnet={"hint_epochs": 3})
    hints = [record["terms"]["fitnet.hint"] for record in result.history if record["phase"] == "hint"]
    assert hints[-1] < 0.7 * hints[0]
