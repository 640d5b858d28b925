import dataclasses

import numpy as np
import pytest
import torch
from kdplugin_jacobian import JacobianMatching, input_gradient, jacobian_loss, largest_attention
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from kdengine import SettingsError, TapError, Trace
from kdengine.data.load import load_data
from kdengine.testing import built, make_step

SHAPES = [(1, 1, 2, 2), (2, 3, 4, 4), (5, 2, 3, 6)]


def l2_normalize(gradients):
    """Every image's gradient as a vector of length 1; a zero gradient stays zero."""
    rows = gradients.reshape(len(gradients), -1)
    return np.array([row / np.sqrt((row**2).sum()) if row.any() else row for row in rows])


def distance(student, teacher):
    """Squared distance of the directions, summed over the values and averaged over the batch, written out."""
    difference = l2_normalize(student) - l2_normalize(teacher)
    return sum(float(value) ** 2 for row in difference for value in row) / len(difference)


def arrays(*tensors):
    return [tensor.detach().double().numpy() for tensor in tensors]


def numeric(output, images, slope):
    """The derivative of each image's output with respect to that image, by central differences: [B, C, H, W]."""
    return np.array([slope(lambda moved, image=image: output(moved[None])[0], image) for image in images])


class Linear(nn.Module):
    """z_k = sum over pixels of W_kd x_d."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x):
        return x.flatten(1) @ self.weight.T


class Quadratic(Linear):
    """z_k = half the sum over pixels of W_kd x_d^2, whose gradient is W_kd x_d."""

    def forward(self, x):
        return super().forward(x.square() / 2)


class Smooth(nn.Module):
    """Two convolutions with a tanh between them, and a linear layer: nothing in it has a kink."""

    def __init__(self, width, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.second = nn.Conv2d(2, width, 3, padding=1), nn.Conv2d(width, 3, 3, stride=2)
        self.head = nn.Linear(3, 4)

    def middle(self, x):
        return torch.tanh(self.first(x))

    def forward(self, x):
        return self.head(torch.tanh(self.second(self.middle(x))).mean((2, 3)))


@pytest.fixture
def taught(leaf):
    """A step in which two networks were run on the same images, in float64."""

    def make(student, teacher, shape, labels=None, tap=None):
        x = leaf(*shape, seed=3, dtype=torch.float64)
        traces = [{} if tap is None else {tap: network.middle(x)} for network in (student, teacher)]
        return make_step(*traces, student_logits=student(x), teacher_logits=teacher(x), labels=labels, x=x)

    return make


@pytest.fixture
def weights(leaf):
    """Weights of a linear network."""
    return lambda classes, pixels, seed: leaf(classes, pixels, seed=seed, dtype=torch.float64).detach()


@pytest.mark.parametrize("shape", SHAPES)
def test_the_loss_and_its_gradient_are_those_of_the_formula(shape, leaf, slope, agree, gradient):
    student, teacher = leaf(*shape, seed=1), leaf(*shape, seed=2).detach()
    s, t = arrays(student, teacher)
    loss = jacobian_loss(student, teacher)
    agree(loss, distance(s, t))
    agree(gradient(loss, student), slope(lambda moved: distance(moved, t), s))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_mean_over_the_values_is_smaller_by_their_number(shape, leaf, agree):
    student, teacher = leaf(*shape, seed=1), leaf(*shape, seed=2).detach()
    agree(jacobian_loss(student, teacher, "mean"), distance(*arrays(student, teacher)) / np.prod(shape[1:]))


def test_opposite_gradients_cost_four_and_equal_directions_nothing(leaf):
    gradients = leaf(3, 2, 4, 4, dtype=torch.float64).detach()
    assert float(jacobian_loss(gradients, -7 * gradients)) == pytest.approx(4)
    assert float(jacobian_loss(gradients, 7 * gradients)) == pytest.approx(0, abs=1e-12)


def test_a_teacher_with_larger_images_is_averaged_to_the_students_size(leaf, agree):
    student, teacher = leaf(2, 3, 2, 2, seed=1), leaf(2, 3, 4, 4, seed=2).detach()
    s, t = arrays(student, teacher)
    agree(jacobian_loss(student, teacher), distance(s, t.reshape(2, 3, 2, 2, 2, 2).mean((3, 5))))


@pytest.mark.parametrize("shape", SHAPES)
def test_of_linear_networks_the_rows_of_the_labels_are_matched(shape, taught, weights, slope, agree, gradient):
    pixels, y = int(np.prod(shape[1:])), torch.arange(shape[0]) % 3
    student, teacher = Linear(weights(3, pixels, 1)), Linear(weights(3, pixels, 2))
    s, t = arrays(student.weight, teacher.weight)

    def formula(weight):
        return distance(weight[y.numpy()], t[y.numpy()])

    loss = JacobianMatching(beta=2.5)(taught(student, teacher, shape, y))["gradients"]
    agree(loss, 2.5 * formula(s))
    agree(gradient(loss, student.weight), slope(lambda moved: 2.5 * formula(moved), s))


@pytest.mark.parametrize("shape", SHAPES)
def test_of_quadratic_networks_the_rows_times_the_pixels_are_matched(shape, taught, weights, slope, agree, gradient):
    pixels, y = int(np.prod(shape[1:])), torch.arange(shape[0]) % 3
    student, teacher = Quadratic(weights(3, pixels, 1)), Quadratic(weights(3, pixels, 2))
    step = taught(student, teacher, shape, y)
    s, t, x = arrays(student.weight, teacher.weight, step.x.flatten(1))

    def formula(weight):
        return distance(weight[y.numpy()] * x, t[y.numpy()] * x)

    loss = JacobianMatching()(step)["gradients"]
    agree(loss, formula(s))
    agree(gradient(loss, student.weight), slope(formula, s))


def test_teacher_top1_differentiates_the_class_that_the_teacher_ranks_first(taught, weights, agree):
    student, teacher = Linear(weights(4, 12, 1)), Linear(weights(4, 12, 2))
    y = torch.zeros(6, dtype=torch.long)
    step = taught(student, teacher, (6, 3, 2, 2), y)
    s, t = arrays(student.weight, teacher.weight)
    first = arrays(step.teacher.logits)[0].argmax(1)
    assert len(set(first)) > 1
    agree(JacobianMatching(target="teacher_top1")(step)["gradients"], distance(s[first], t[first]))


def numpy_attention(network, images):
    """The largest sum over channels of F^2, from the first layer's weights alone: [B]."""
    weight, bias = arrays(network.first.weight, network.first.bias)
    padded = np.pad(images, [(0, 0), (0, 0), (1, 1), (1, 1)])
    maps = np.zeros((len(images), len(weight), *images.shape[2:])) + bias[:, None, None]
    for i, j in np.ndindex(3, 3):
        seen = padded[:, :, i : i + images.shape[2], j : j + images.shape[3]]
        maps += np.einsum("bchw,dc->bdhw", seen, weight[:, :, i, j])
    return (np.tanh(maps) ** 2).sum(1).reshape(len(images), -1).max(1)


def test_attention_max_differentiates_the_largest_energy_of_a_map_in_each_network(taught, slope, agree):
    student, teacher = Smooth(3, 1).double(), Smooth(5, 2).double()
    step = taught(student, teacher, (3, 2, 4, 5), tap="stage2")
    (x,) = arrays(step.x)
    agree(largest_attention(step.student["stage2"]), numpy_attention(student, x))
    expected = distance(*(numeric(lambda at, n=network: numpy_attention(n, at), x, slope) for network in (student, teacher)))
    agree(JacobianMatching(target="attention_max")(step)["gradients"], expected)


@pytest.mark.parametrize("target", ["true_class", "teacher_top1", "attention_max"])
def test_the_gradient_of_every_parameter_is_its_numeric_derivative(target, taught, slope, agree):
    student, teacher = Smooth(3, 1).double(), Smooth(5, 2).double()
    method, tap, y = JacobianMatching(target=target), "stage2" if target == "attention_max" else None, torch.tensor([0, 1, 3])
    method(taught(student, teacher, (3, 2, 4, 5), y, tap))["gradients"].backward()
    used = {name: value for name, value in student.named_parameters() if value.grad is not None and value.grad.abs().max() > 0}
    assert set(used) == ({"first.weight", "first.bias"} if tap else {*dict(student.named_parameters())} - {"head.bias"})
    for parameter in used.values():

        def formula(values, parameter=parameter):
            before = parameter.data
            parameter.data = torch.from_numpy(values)
            loss = method(taught(student, teacher, (3, 2, 4, 5), y, tap))["gradients"].item()
            parameter.data = before
            return loss

        agree(parameter.grad, slope(formula, parameter.detach().numpy()))


@pytest.mark.parametrize("target", ["true_class", "attention_max"])
def test_the_teacher_gets_no_gradient_and_its_graph_can_be_used_again(target, taught):
    student, teacher = Smooth(3, 1).double(), Smooth(5, 2).double()
    method = JacobianMatching(target=target)
    step = taught(student, teacher, (3, 2, 4, 5), tap="stage2" if target == "attention_max" else None)
    first, second = method(step)["gradients"], method(step)["gradients"]
    (first + second).backward()
    assert [name for name, parameter in teacher.named_parameters() if parameter.grad is not None] == []
    input_gradient(step.teacher.logits.sum(1), step.teacher.input, create_graph=False)


def test_inputs_of_other_sizes_are_brought_to_the_students(weights, agree):
    student, teacher = Linear(weights(3, 12, 1)), Linear(weights(3, 48, 2))
    small, large = (torch.randn(4, 3, side, side, dtype=torch.float64, requires_grad=True) for side in (2, 4))
    step = make_step(student_logits=student(small), teacher_logits=teacher(large), labels=torch.tensor([0, 1, 2, 0]), x=small)
    step = dataclasses.replace(step, teacher=Trace({}, teacher(large), inputs=large))
    s, t = (array[[0, 1, 2, 0]] for array in arrays(student.weight, teacher.weight))
    averaged = t.reshape(4, 3, 2, 2, 2, 2).mean((3, 5))
    agree(JacobianMatching()(step)["gradients"], distance(s, averaged))


def test_several_taps_are_summed(taught, weights, leaf, agree):
    networks = [Linear(weights(3, 12, seed)) for seed in range(4)]
    x, y = leaf(2, 3, 2, 2, dtype=torch.float64), torch.tensor([2, 1])
    step = make_step({"a": networks[0](x), "b": networks[1](x)}, {"a": networks[2](x), "b": networks[3](x)}, labels=y, x=x)
    rows = [array[y.numpy()] for array in arrays(*(network.weight for network in networks))]
    agree(JacobianMatching()(step)["gradients"], distance(rows[0], rows[2]) + distance(rows[1], rows[3]))


@pytest.mark.parametrize("dead", ["student", "teacher", "both"])
def test_a_gradient_of_zero_costs_the_other_ones_length_and_breaks_nothing(dead, leaf, gradient):
    student, teacher = leaf(3, 2, 4, 4, seed=1).detach(), leaf(3, 2, 4, 4, seed=2).detach()
    if dead in ("student", "both"):
        student[1] = 0
    if dead in ("teacher", "both"):
        teacher[1] = 0
    student.requires_grad_()
    loss = jacobian_loss(student, teacher)
    assert loss.item() == pytest.approx(distance(*arrays(student, teacher)), rel=1e-5)
    found = gradient(loss, student)
    assert torch.isfinite(found).all()
    assert found[1].abs().max() == 0 if dead != "teacher" else found.abs().max() < 10


def test_a_student_whose_rectifiers_are_all_dead_gets_no_gradient_and_no_nan(leaf):
    student = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 5))
    nn.init.constant_(student[0].bias, -100.0)
    x = leaf(2, 3, 4, 4)
    step = make_step(student_logits=student(x), teacher_logits=Linear(torch.randn(5, 48))(x), x=x)
    loss = JacobianMatching()(step)["gradients"]
    loss.backward()
    assert loss.item() == pytest.approx(1)
    assert all(value.grad is None or value.grad.abs().max() == 0 for value in student.parameters())


def test_the_preset_zoo_is_twenty_times_the_mean_over_the_values(taught, weights, agree):
    student, teacher = Linear(weights(3, 12, 1)), Linear(weights(3, 12, 2))
    loss = JacobianMatching(preset="zoo")(taught(student, teacher, (4, 3, 2, 2)))["gradients"]
    rows = [array[[0] * 4] for array in arrays(student.weight, teacher.weight)]
    agree(loss, 20 * distance(*rows) / 12)


def test_the_step_must_carry_input_gradients_and_the_task_keeps_its_full_weight():
    method = JacobianMatching()
    assert (tuple(method.needs), method.task_weight, list(method.phases())) == (("input_gradients", "hard_labels"), 1, [])


@pytest.mark.parametrize(
    ("options", "taps"),
    [
        ({}, ["logits"]),
        ({"target": "teacher_top1"}, ["logits"]),
        ({"target": "attention_max"}, ["stage2"]),
        ({"target": "attention_max", "taps": "stage1, stage3=stage2"}, ["stage1", "stage3=stage2"]),
        ({"taps": "aux=logits"}, ["aux=logits"]),
    ],
)
def test_the_taps_follow_from_the_target_unless_they_are_named(options, taps):
    assert list(JacobianMatching(**options).taps_in("joint")) == taps


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"betta": 1.0}, "'beta'"),
        ({"beta": -1.0}, "greater than or equal to 0"),
        ({"target": "top1"}, "'true_class', 'teacher_top1' or 'attention_max'"),
        ({"preset": "zo"}, "'zoo'"),
    ],
)
def test_a_wrong_option_is_refused_with_the_way_out(options, fault):
    with pytest.raises(SettingsError, match=fault):
        JacobianMatching(**options)


@pytest.mark.parametrize(
    ("options", "shape", "fault"),
    [
        ({}, (2, 3, 4, 4), r"\[2, 3, 4, 4\].*needs logits \[B, 10\].*jacobian.taps='logits'"),
        ({"target": "teacher_top1"}, (2, 64), r"\[2, 64\].*needs logits \[B, 10\]"),
        ({"target": "attention_max"}, (2, 64), r"\[2, 64\].*needs maps \[B, C, H, W\].*jacobian.taps='stage2'"),
    ],
)
def test_taps_that_do_not_fit_the_target_are_refused(options, shape, fault, leaf):
    step = make_step({"tap": leaf(*shape)}, {"tap": leaf(*shape)})
    with pytest.raises(TapError, match=fault):
        built(JacobianMatching(**options), step, num_classes=10)


@pytest.fixture
def run_of_eight(distil, networks):
    """One update of a run on a batch of eight digits: its terms, and both networks and the images as they were before it."""

    def run(plugins, **options):
        before = networks("resnet8", "resnet20")
        data = load_data("digits@train=8@test=8")
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (data.mean, data.std))
        student, teacher = networks("resnet8", "resnet20")
        result = distil(plugins, data=data.name, student=student, teacher=teacher, train={"lr": 1e-12}, **options)
        x = ((data.train.images.float() / 255 - mean) / std).requires_grad_()
        return result.history[0]["terms"], before[0].train(), before[1].eval(), x, data.train.labels

    return run


def gradient_of_logits(network, x, classes):
    return arrays(torch.autograd.grad(network(x)[range(len(x)), classes].sum(), x)[0])[0]


def gradient_of_attention(network, x):
    maps = network.layer2(network.layer1(network.act1(network.bn1(network.conv1(x)))))
    return arrays(torch.autograd.grad(maps.square().sum(1).amax((1, 2)).sum(), x)[0])[0]


def test_a_run_records_the_distance_of_the_gradients_for_the_labels(run_of_eight):
    terms, student, teacher, x, y = run_of_eight(["jacobian"])
    assert set(terms) == {"task", "jacobian.gradients"}
    expected = distance(gradient_of_logits(student, x, y), gradient_of_logits(teacher, x, y))
    assert terms["jacobian.gradients"] == pytest.approx(expected, rel=1e-4)


def test_used_twice_each_has_its_own_target_beside_methods_that_share_the_teachers_graph(run_of_eight):
    terms, student, teacher, x, _ = run_of_eight(
        ["jacobian", "st", "at", "jacobian"],
        jacobian={"target": "teacher_top1"},
        jacobian_2={"target": "attention_max", "beta": 0.5},
    )
    first = teacher(x).argmax(1)
    expected = distance(gradient_of_logits(student, x, first), gradient_of_logits(teacher, x, first))
    assert terms["jacobian.gradients"] == pytest.approx(expected, rel=1e-4)
    expected = distance(gradient_of_attention(student, x), gradient_of_attention(teacher, x))
    assert terms["jacobian-2.gradients"] == pytest.approx(0.5 * expected, rel=1e-4)


def test_a_run_refuses_taps_that_do_not_fit(distil):
    with pytest.raises(TapError, match=r"needs maps \[B, C, H, W\]"):
        distil(["jacobian"], jacobian={"target": "attention_max", "taps": "embedding"})


def test_a_ragged_last_batch_of_one_trains_like_any_other(distil):
    result = distil(["jacobian"], data="digits@train=17@test=8", train={"batch_size": 16})
    assert all(np.isfinite(value) and value > 0 for record in result.history for value in record["terms"].values())


@pytest.mark.slow
def test_the_students_gradients_turn_towards_the_teachers_in_training(distil, networks):
    options = {
        "teacher": networks("resnet8")[0],
        "epochs": 4,
        "train": {"batch_size": 16, "lr": 0.05},
        "jacobian": {"beta": 10.0},
    }
    losses = [
        record["terms"]["jacobian.gradients"] for record in distil(["jacobian"], "digits@train=64@test=8", **options).history
    ]
    assert losses[-1] < 0.9 * losses[0]


def test_a_transformer_is_differentiated_twice_although_fused_attention_cannot_be(distil):
    size = {"img_size": 32, "patch_size": 8, "embed_dim": 12, "depth": 2, "num_heads": 2, "num_classes": 10}
    student, teacher = VisionTransformer(**size), VisionTransformer(**size)
    assert student.blocks[0].attn.fused_attn
    result = distil(["jacobian"], "digits@train=16@test=8", student=student, teacher=teacher)
    assert result.history[0]["terms"]["jacobian.gradients"] > 0
