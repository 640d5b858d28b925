import math
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from kdplugin_phi_s import PhiS, hadamard, samples
from kdplugin_phi_s.normalizer import Normalizer
from kdplugin_phi_s.rotation import evening

from kdengine import Pair
from kdengine.taps import Trace
from kdengine.testing import DistillerContract, built, in_processes, make_step


class TestContract(DistillerContract):
    method = "phi-s"
    options: ClassVar = {"batches": 1}  # with more, the first steps cost nothing


class TestContractOfMaps(DistillerContract):
    method = "phi-s"
    options: ClassVar = {"batches": 1, "taps": ("stage3",), "adapter": "mlp"}


H4 = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2


def normalised(x, kind="phi-s"):
    """The definition, in float64: centred, rotated by the eigenvectors and a Hadamard matrix, and scaled by one factor."""
    mean = x.mean(0)
    covariance = sum(np.outer(row - mean, row - mean) for row in x) / len(x)
    if kind == "none":
        return x
    if kind == "channel":
        return (x - mean) / np.sqrt(np.diag(covariance))
    values, axes = np.linalg.eigh(covariance)
    if kind == "global":
        return (x - mean) / math.sqrt(values.mean())
    axes = axes * [math.copysign(1, column[np.abs(column).argmax()]) for column in axes.T]
    return np.array([H4 @ (axes.T @ (row - mean)) for row in x]) / math.sqrt(values.mean())


def step_of(student, teacher):
    return make_step(student={"embedding": student}, teacher={"embedding": teacher})


def several(step, *others):
    return replace(step, others=others)


def built_for(method, *steps):
    """A method with connectors for several teachers."""

    def shapes(trace):
        return Trace({name: trace[name].detach().to("meta") for name in trace})

    def refuse(spec):
        raise AssertionError(spec)

    pairs = [Pair(shapes(step.student), shapes(step.teacher), 10, 100, refuse, step.names) for step in steps]
    method.build(replace(pairs[0], others=tuple(pairs[1:])))
    return method


def uneven(leaf, *shape, seed=0):
    """Features whose channels differ in scale, mean and correlation."""
    values = leaf(*shape, seed=seed).detach()
    mix = leaf(shape[-1], shape[-1], seed=seed + 100).detach()
    return 3 * values @ mix + torch.arange(float(shape[-1]))


@pytest.mark.parametrize("kind", ["phi-s", "global", "channel", "none"])
def test_loss_and_gradient_are_those_of_the_definition(kind, leaf, slope, agree, gradient):
    student, teacher = leaf(9, 3, seed=1), uneven(leaf, 9, 4, seed=2)
    step = step_of(student, teacher)
    method = built(PhiS(batches=1, normalize=kind), step)
    weight, bias = (value.detach().double().numpy() for value in (method.adapters[0].weight, method.adapters[0].bias))
    target = normalised(teacher.double().numpy(), kind)

    def formula(s):
        predicted = np.array([weight @ row + bias for row in s])
        return ((predicted - target) ** 2).mean()

    s = student.detach().double().numpy()
    loss = method(step)["mse"]
    agree(loss, formula(s))
    agree(gradient(loss, student), slope(formula, s))


@pytest.mark.parametrize("width", [4, 5, 12, 28])
def test_every_channel_gets_mean_0_and_variance_1_by_a_rotation_and_one_factor(width, leaf):
    x = uneven(leaf, 200, width, seed=3)
    y = Normalizer(width, 1)(x).double()
    assert y.mean(0).abs().max() < 1e-4
    assert torch.allclose(y.var(0, correction=0), torch.ones(width, dtype=torch.float64), atol=1e-4)
    apart = torch.pdist(y) / torch.pdist(x.double())
    assert apart.max() / apart.min() < 1 + 1e-4


def test_a_hadamard_matrix_gives_every_axis_an_equal_part_of_every_channel():
    known = {size: hadamard(size) for size in range(1, 130)}
    found = [size for size, matrix in known.items() if matrix is not None]
    for size in found:
        matrix = known[size]
        assert set(matrix.flatten().tolist()) <= {1.0, -1.0}
        assert torch.equal(matrix @ matrix.T, size * torch.eye(size, dtype=torch.float64)), size
    assert {1, 2, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 48, 64, 96, 128} <= set(found)
    assert all(size in (1, 2) or size % 4 == 0 for size in found)
    assert all(hadamard(size) is not None for size in (192, 256, 320, 384, 512, 640, 768))


@pytest.mark.parametrize("variances", [[5.0, 1.0, 0.0], [2.0] * 5, [1e6, 1e-6, 3.0, 0.0, 0.0, 7.0, 1.0], [0.0, 9.0] * 3, [4.0]])
def test_sizes_without_such_a_matrix_get_equal_variances_all_the_same(variances):
    turn = evening(variances)
    width = len(variances)
    assert torch.allclose(turn @ turn.T, torch.eye(width, dtype=torch.float64), atol=1e-12)
    after = (turn @ torch.diag(torch.tensor(variances, dtype=torch.float64)) @ turn.T).diagonal()
    assert torch.allclose(after, torch.full_like(after, sum(variances) / width), rtol=1e-9)


def test_statistics_are_those_of_all_first_batches_whatever_their_sizes_and_then_stay(leaf):
    x = uneven(leaf, 40, 4, seed=4) + 1000
    parts = x.split([7, 1, 20, 12])
    normalizer = Normalizer(4, 4)
    assert [normalizer(part) is None for part in parts] == [True, True, True, False]
    whole = x.double()
    assert torch.allclose(normalizer.mean.double(), whole.mean(0), rtol=1e-6)
    assert torch.allclose(normalizer.covariance, torch.cov(whole.T, correction=0), rtol=1e-4, atol=1e-3)
    before = {name: value.clone() for name, value in normalizer.state_dict().items()}
    normalizer(100 * x)
    assert all(torch.equal(before[name], value) for name, value in normalizer.state_dict().items())


def test_while_statistics_are_estimated_the_method_costs_nothing(leaf, gradient):
    student, teacher = leaf(6, 3, seed=1), leaf(6, 4, seed=2).detach()
    step = step_of(student, teacher)
    method = built(PhiS(batches=2), step)
    first = method(step)["mse"]
    assert first == 0
    assert gradient(first, student).abs().max() == 0
    assert method(step)["mse"] > 0


def test_a_single_image_or_images_that_are_all_alike_are_no_statistics(leaf):
    normalizer = Normalizer(4, 1)
    assert normalizer(torch.full((1, 4), 7.0)) is None
    assert normalizer(torch.full((3, 4), 7.0)) is None
    assert Normalizer(4, 1)(torch.full((7, 4), 0.1)) is None
    assert Normalizer(4, 1)(torch.zeros(7, 4)) is None
    shown = normalizer(uneven(leaf, 5, 4))
    assert torch.isfinite(shown).all()


def test_tensors_without_values_keep_their_shapes():
    with torch.device("meta"):
        assert Normalizer(4, 20)(torch.zeros(3, 4)).shape == (3, 4)


def test_fewer_images_than_channels_and_dead_channels_stay_finite(leaf):
    x = uneven(leaf, 3, 16, seed=5)
    x[:, 3] = 2.0
    for kind in ("phi-s", "global", "channel"):
        shown = Normalizer(16, 1, kind)(x)
        assert torch.isfinite(shown).all()
        if kind != "channel":
            assert shown.double().square().mean() == pytest.approx(1, rel=1e-4)


def test_teachers_of_any_scale_count_equally(leaf):
    """A student that predicts the mean costs 1 / T for each, though one teacher's features are a million times larger."""
    student = leaf(50, 3, seed=1)
    small, large = uneven(leaf, 50, 4, seed=2), 1e6 * uneven(leaf, 50, 12, seed=3)
    steps = step_of(student, small), step_of(student, large)
    raw, even = (built_for(PhiS(batches=1, normalize=kind), *steps) for kind in ("none", "phi-s"))
    for method in (raw, even):
        for adapter in method.adapters:
            torch.nn.init.zeros_(adapter.weight)
            torch.nn.init.zeros_(adapter.bias)
    terms = even(several(*steps))
    assert [terms[name].item() for name in ("mse_1", "mse_2")] == pytest.approx([0.5, 0.5], rel=1e-4)
    terms = raw(several(*steps))
    assert terms["mse_2"] > 1e10 * terms["mse_1"]


def test_positions_of_maps_and_tokens_are_samples_and_other_kinds_are_averaged(leaf):
    maps, larger, tokens = leaf(2, 3, 4, 4, seed=1).detach(), leaf(2, 5, 8, 8, seed=2).detach(), leaf(2, 16, 6, seed=3).detach()
    student, teacher = samples(maps, larger)
    assert (student.shape, teacher.shape) == ((32, 3), (32, 5))
    assert torch.equal(student[17], maps[1, :, 0, 1])
    assert torch.allclose(teacher[17], larger[1, :, :2, 2:4].mean((1, 2)))
    student, teacher = samples(tokens, tokens)
    assert torch.equal(student[17], tokens[1, 1])
    student, teacher = samples(maps, tokens)
    assert torch.equal(student, maps.mean((2, 3)))
    assert torch.equal(teacher, tokens.mean(1))


def test_several_taps_are_summed(leaf, agree):
    student = {"stage1": leaf(5, 3, seed=1), "embedding": leaf(5, 2, seed=2)}
    teacher = {"stage1": uneven(leaf, 5, 4, seed=3), "embedding": uneven(leaf, 5, 4, seed=4)}
    method = built(PhiS(batches=1), make_step(student, teacher))
    parts = []
    for adapter, name in zip(method.adapters, student, strict=True):
        target = normalised(teacher[name].double().numpy())
        parts.append(((adapter(student[name]).detach().double().numpy() - target) ** 2).mean())
    agree(method(make_step(student, teacher))["mse"], sum(parts))


@pytest.mark.slow
def test_a_run_with_two_teachers_logs_a_term_for_each_and_learns_from_both(distil, networks):
    teachers = networks("resnet20", "resnet14")
    options = {"batches": 2}
    result = distil(
        ["phi-s"], "digits@train=128@test=64", teacher=teachers, epochs=4, train={"batch_size": 16, "lr": 0.1}, phi_s=options
    )
    assert result.history[0]["terms"].keys() == {"task", "phi-s.mse_1", "phi-s.mse_2"}
    for name in ("phi-s.mse_1", "phi-s.mse_2"):
        assert 0 < result.history[-1]["terms"][name] < 0.48, "predicting the mean alone costs a half"


def test_statistics_of_two_processes_are_those_of_one_with_the_whole_batch(leaf):
    batches = [leaf(count, 3, seed=count).detach() for count in (5, 8)]

    def one(rank, processes):
        normalizer = Normalizer(3, len(batches))
        for batch in batches:
            normalizer(batch[rank::2], processes)
        return dict(normalizer.named_buffers())

    alone = Normalizer(3, len(batches))
    for batch in batches:
        alone(batch)
    first, second = in_processes(2, one)
    for name, value in alone.named_buffers():
        assert torch.allclose(first[name], value, atol=1e-6), name
        assert torch.equal(first[name], second[name]), name
