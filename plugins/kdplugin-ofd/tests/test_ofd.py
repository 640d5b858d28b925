import math
from typing import ClassVar

import numpy as np
import pytest
import torch
from kdplugin_ofd import OFD, Margin, margins_of_batch, margins_of_norm, partial_loss
from torch import nn

from kdengine import ModuleView, Pair, SettingsError, TapError
from kdengine.testing import DistillerContract, built, in_processes, make_step

SHAPES = [
    ((1, 3, 2, 2), (1, 3, 2, 2)),
    ((2, 3, 4, 4), (2, 3, 2, 2)),  # a larger student
    ((3, 2, 2, 2), (3, 2, 4, 4)),  # a larger teacher
    ((2, 2, 6, 2), (2, 2, 3, 4)),  # larger in one direction only
]


class TestContract(DistillerContract):
    method = "ofd"


class TestContractWithMeasuredMargins(DistillerContract):
    method = "ofd"
    options: ClassVar = {"margins": "batch"}


def pooled(maps, size):
    """Mean over the boxes that divide a map evenly: [B, C, H, W] -> [B, C, *size]."""
    out = np.zeros((*maps.shape[:2], *size))
    rows, columns = maps.shape[2] // size[0], maps.shape[3] // size[1]
    for i, j in np.ndindex(*size):
        out[:, :, i, j] = maps[:, :, i * rows : (i + 1) * rows, j * columns : (j + 1) * columns].mean((2, 3))
    return out


def cost(s, t):
    """Of one neuron: the cases of the paper."""
    return 0.0 if s <= t <= 0 else (s - t) ** 2


def loss_of(student, target):
    size = [min(sides) for sides in zip(student.shape[2:], target.shape[2:], strict=True)]
    neurons = zip(pooled(student, size).ravel(), pooled(target, size).ravel(), strict=True)
    return math.fsum(cost(float(s), float(t)) for s, t in neurons) / len(student)


def connected(maps, connector):
    """What a connector makes of a map, with the statistics of the batch."""
    weight, gain, shift = (value.detach().double().numpy() for value in connector.parameters())
    mixed = np.einsum("bchw,dc->bdhw", maps, weight[:, :, 0, 0])
    mean, variance = mixed.mean((0, 2, 3), keepdims=True), mixed.var((0, 2, 3), keepdims=True)
    return (mixed - mean) / np.sqrt(variance + 1e-5) * gain[:, None, None] + shift[:, None, None]


def norm_of(width, seed=0):
    """A batch normalisation with drawn parameters."""
    generator = torch.Generator().manual_seed(seed)
    norm = nn.BatchNorm2d(width)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(width, generator=generator))
        norm.bias.copy_(torch.randn(width, generator=generator))
    return norm


class Networks:
    """What a pair knows of a teacher whose normalisation before a tap is given; none, if it is not."""

    def __init__(self, norms):
        self.norms = norms

    def teacher_module(self, tap, kind):
        if kind is not nn.BatchNorm2d or tap not in self.norms:
            raise TapError("no such module")
        return ModuleView(lambda: self.norms[tap])


def ofd(step, norms, **options):
    method = OFD(**options)
    shapes = (step.student, step.teacher)
    method.build(Pair(*shapes, 10, 100, lambda spec: None, step.names, step.rectified, networks=Networks(norms)))
    return method


def test_margins_are_the_mean_of_the_negative_responses_that_the_normalisation_gives():
    drawn = np.random.default_rng(0)
    shift, scale = drawn.uniform(-2, 2, 12), drawn.uniform(-2, 2, 12)
    scale[np.abs(scale) < 0.8] += 1.5
    found = margins_of_norm(torch.from_numpy(shift), torch.from_numpy(scale)).numpy()
    for m, beta, gamma in zip(found, shift, scale, strict=True):
        responses = beta + gamma * drawn.standard_normal(400_000)
        negative = responses[responses < 0]
        assert m == pytest.approx(negative.mean(), abs=6 * negative.std() / math.sqrt(len(negative)))


def test_a_channel_that_is_hardly_ever_negative_has_a_margin_of_three_scales():
    found = margins_of_norm(torch.tensor([3.2, 3.0, 50.0, 1.0]), torch.tensor([1.0, 1.0, -2.0, 0.0]))
    assert found[[0, 2, 3]].tolist() == pytest.approx([-3, -6, 0], rel=1e-6)  # Phi(-3.2) < 0.001
    phi, share = math.exp(-4.5) / math.sqrt(2 * math.pi), 0.5 * math.erfc(3 / math.sqrt(2))
    assert float(found[1]) == pytest.approx(3 - phi / share, rel=1e-4)  # Phi(-3) > 0.001


@pytest.mark.parametrize(("shift", "scale", "margin"), [(0.0, 0.0, 0.0), (-5.0, 0.0, -5.0), (-80.0, 0.1, -80.0)])
def test_margins_are_finite_where_a_channel_hardly_varies(shift, scale, margin):
    assert float(margins_of_norm(torch.tensor([shift]), torch.tensor([scale]))) == pytest.approx(margin, abs=1e-6)


def test_measured_margins_are_means_over_the_negative_responses_of_a_channel():
    maps = torch.tensor([[[[-1.0, 2.0]], [[3.0, 5.0]]], [[[-3.0, 1.0]], [[3.0, 5.0]]]])
    assert margins_of_batch(maps).tolist() == pytest.approx([-2.0, -3.0])  # the second has none, and deviates by 1


@pytest.mark.parametrize("shapes", SHAPES)
def test_the_distance_and_its_gradient_are_those_of_the_formula(shapes, leaf, slope, agree, gradient):
    student, target = leaf(*shapes[0], seed=1), leaf(*shapes[1], seed=2).detach()
    s, t = student.detach().double().numpy(), target.double().numpy()
    loss = partial_loss(student, target)
    agree(loss, loss_of(s, t))
    agree(gradient(loss, student), slope(lambda moved: loss_of(moved, t), s))


def test_each_case_costs_what_the_paper_says(gradient):
    student = torch.tensor([-3.0, -1.0, -3.0, 5.0, 0.5, -2.0]).view(1, 6, 1, 1).requires_grad_()
    target = torch.tensor([-2.0, -2.0, 1.0, 1.0, -2.0, -2.0]).view(1, 6, 1, 1)
    loss = partial_loss(student, target)
    assert loss.item() == pytest.approx(0 + 1 + 16 + 16 + 6.25 + 0)
    assert gradient(loss, student).flatten().tolist() == pytest.approx([0, 2, -8, 8, 5, 0])


def test_a_student_as_the_teacher_or_below_its_margin_costs_nothing(leaf):
    maps = leaf(2, 3, 4, 4).detach()
    assert float(partial_loss(maps, maps)) == 0
    below = torch.where(maps > 0, maps, maps - 7)
    assert float(partial_loss(below, maps)) == 0


def test_huge_responses_below_the_target_have_no_gradient_that_is_not_a_number(gradient):
    student = torch.full((1, 1, 1, 1), -1e30, requires_grad=True)
    assert gradient(partial_loss(student, torch.full((1, 1, 1, 1), -1.0)), student).item() == 0


def test_the_last_of_several_taps_counts_fully_and_each_before_half_of_the_next(leaf, slope, agree, gradient):
    student = {"stage1.pre": leaf(2, 2, 4, 4, seed=1), "stage2.pre": leaf(2, 3, 2, 2, seed=2)}
    teacher = {"stage1.pre": leaf(2, 3, 4, 4, seed=3).detach(), "stage2.pre": leaf(2, 3, 2, 2, seed=4).detach()}
    norms = {name: norm_of(3, seed) for seed, name in enumerate(teacher, 1)}
    step = make_step(student, teacher)
    method = ofd(step, norms)
    targets = []
    for name, norm in norms.items():
        m = margins_of_norm(norm.bias.detach().double(), norm.weight.detach().double()).numpy()
        targets.append(np.maximum(teacher[name].double().numpy(), m[:, None, None]))

    def formula(first):
        maps = (first, student["stage2.pre"].detach().double().numpy())
        parts = [loss_of(connected(s, c), t) for s, t, c in zip(maps, targets, method.connectors, strict=True)]
        return 1e-3 * (0.5 * parts[0] + parts[1])

    loss, first = method(step)["distance"], student["stage1.pre"]
    agree(loss, formula(first.detach().double().numpy()))
    agree(gradient(loss, first), slope(formula, first.detach().double().numpy()), relative=1e-4)


def test_scale_is_a_factor_and_weights_of_the_authors_are_the_default(leaf):
    step = make_step({"stage1.pre": leaf(2, 3, 4, 4)}, {"stage1.pre": leaf(2, 3, 4, 4, seed=1).detach()})
    one, two = ofd(step, {}), ofd(step, {}, scale=5e-3)
    two.load_state_dict(one.state_dict())
    assert two(step)["distance"].item() == pytest.approx(5 * one(step)["distance"].item(), rel=1e-5)
    assert one.task_weight == 1


def test_margins_are_taken_at_the_first_step_and_stay(leaf):
    step = make_step({"stage1.pre": leaf(2, 3, 4, 4)}, {"stage1.pre": leaf(2, 3, 4, 4, seed=1).detach()})
    norm = norm_of(3)
    method = ofd(step, {"stage1.pre": norm})
    with torch.no_grad():
        norm.bias.fill_(-0.5)  # the teacher gets its weights after the connectors are built
    method(step)
    taken = method.margins[0].values.clone()
    assert torch.equal(taken, margins_of_norm(norm.bias.detach(), norm.weight.detach()))
    with torch.no_grad():
        norm.bias.fill_(9.0)
    method(step)
    assert torch.equal(method.margins[0].values, taken)


def test_without_a_normalisation_margins_are_measured_on_the_first_batch_and_survive_a_restart(leaf):
    batches = [make_step({"stage1.pre": leaf(2, 3, 4, 4)}, {"stage1.pre": leaf(2, 3, 4, 4, seed=n).detach()}) for n in (1, 2)]
    method, again = ofd(batches[0], {}), ofd(batches[0], {})
    method(batches[0])
    again.load_state_dict(method.state_dict())
    again(batches[1])
    measured = margins_of_batch(batches[0].teacher["stage1.pre"])
    assert torch.equal(method.margins[0].values, measured)
    assert torch.equal(again.margins[0].values, measured)


def test_a_normalisation_without_parameters_has_shift_zero_and_scale_one():
    margin = Margin(2, ModuleView(lambda: nn.BatchNorm2d(2, affine=False)))
    margin(torch.zeros(1, 2, 1, 1))
    assert margin.values.tolist() == pytest.approx([-math.sqrt(2 / math.pi)] * 2, rel=1e-6)


def test_connectors_are_there_also_where_the_widths_agree(leaf):
    step = make_step({"stage1.pre": leaf(2, 3, 4, 4)}, {"stage1.pre": leaf(2, 3, 4, 4)})
    assert [tuple(value.shape) for value in ofd(step, {}).parameters()] == [(3, 3, 1, 1), (3,), (3,)]


def test_an_unknown_source_of_margins_and_taps_without_maps_are_refused(leaf):
    with pytest.raises(SettingsError, match="margins"):
        OFD(margins="teacher")
    with pytest.raises(TapError, match=r"has \[2, 64\].*maps \[B, C, H, W\]"):
        built(OFD(), make_step({"embedding": leaf(2, 64)}, {"embedding": leaf(2, 64)}))


def test_a_run_takes_the_margins_of_the_normalisations_that_end_the_teachers_stages_and_leaves_it_in_eval(networks, distil):
    (teacher,) = networks("resnet20")
    layers = [layer[-1].bn2 for layer in (teacher.layer1, teacher.layer2, teacher.layer3)]
    for seed, norm in enumerate(layers):
        norm.load_state_dict({**norm.state_dict(), **dict(norm_of(len(norm.bias), seed).named_parameters())})
    statistics = [norm.running_mean.clone() for norm in layers]
    method = OFD()
    result = distil([method], "digits@train=32@test=8", teacher=teacher, epochs=2)
    for margin, norm in zip(method.margins, layers, strict=True):
        assert torch.equal(margin.values, margins_of_norm(norm.bias.detach(), norm.weight.detach()))
    assert not any(module.training for module in teacher.modules())
    assert all(torch.equal(norm.running_mean, kept) for norm, kept in zip(layers, statistics, strict=True))
    losses = [record["terms"]["ofd.distance"] for record in result.history]
    assert losses[-1] < losses[0]


def test_margins_of_two_processes_are_those_of_one_with_the_whole_batch(leaf):
    teacher = leaf(5, 3, 2, 2).detach()

    def one(rank, processes):
        margin = Margin(3, None)
        margin(teacher[rank::2], processes)
        return margin.values

    alone = Margin(3, None)
    alone(teacher)
    assert all(torch.equal(values, alone.values) for values in in_processes(2, one))
