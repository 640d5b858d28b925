import numpy as np
import pytest
import torch
from kdplugin_reviewkd import ReviewKD, context_loss
from kdplugin_reviewkd.fusion import enlarge

from kdengine import SettingsError, TapError
from kdengine.testing import DistillerContract, built, make_step

# student and teacher per level, shallow to deep; the last is an embedding
LEVELS = [
    [((3, 2, 4, 4), (3, 3, 4, 4)), ((3, 4, 2, 2), (3, 5, 2, 2)), ((3, 3), (3, 6))],
    [((2, 2, 6, 4), (2, 3, 6, 4)), ((2, 3, 3, 2), (2, 2, 3, 2))],  # oblong, and no embedding
    [((2, 2, 3, 3), (2, 3, 6, 6)), ((2, 4, 3, 3), (2, 2, 2, 2)), ((2, 4), (2, 4))],  # a larger and a smaller teacher
    [((4, 3, 5, 5), (4, 2, 5, 5))],  # one level: nothing to fuse
]


class TestContract(DistillerContract):
    method = "reviewkd"


def array(tensor):
    return tensor.detach().double().numpy()


def as_map(x):
    return x[:, :, None, None] if x.ndim == 2 else x


def nearest(x, size):
    rows, columns = (np.arange(new) * old // new for new, old in zip(size, x.shape[2:], strict=True))
    return x[:, :, rows][:, :, :, columns]


def convolve(x, kernel):
    """A convolution of odd size, padded with zeros, written as the sum over the places of its kernel."""
    half = kernel.shape[2] // 2
    height, width = x.shape[2:]
    padded = np.pad(x, ((0, 0), (0, 0), (half, half), (half, half)))
    out = 0.0
    for i, j in np.ndindex(*kernel.shape[2:]):
        out = out + np.einsum("dc,bchw->bdhw", kernel[:, :, i, j], padded[:, :, i : i + height, j : j + width])
    return out


def standardise(x, norm):
    mean, variance = x.mean((0, 2, 3), keepdims=True), x.var((0, 2, 3), keepdims=True)
    weight, bias = (array(value)[None, :, None, None] for value in (norm.weight, norm.bias))
    return weight * (x - mean) / np.sqrt(variance + norm.eps) + bias


def pooled(x, grid):
    """The means over the cells of a grid, which begin at floor(i h / g) and end at ceil((i + 1) h / g)."""
    height, width = x.shape[2:]
    out = np.zeros((*x.shape[:2], grid, grid))
    for i, j in np.ndindex(grid, grid):
        rows, columns = (slice(n * side // grid, -(-(n + 1) * side // grid)) for n, side in ((i, height), (j, width)))
        out[:, :, i, j] = x[:, :, rows, columns].mean((2, 3))
    return out


def context(s, t):
    terms, weights = [((s - t) ** 2).mean()], [1.0]
    for grid in (4, 2, 1):
        if grid < min(s.shape[2:]):
            weights.append(weights[-1] / 2)
            terms.append(weights[-1] * ((pooled(s, grid) - pooled(t, grid)) ** 2).mean())
    return sum(terms) / sum(weights)


def review(fusions, students, teachers):
    """The sum over the levels, walked from the deepest up."""
    total, y = 0.0, None
    for fusion, student, teacher in zip(fusions, reversed(students), reversed(teachers), strict=True):
        s, t = as_map(student), as_map(teacher)
        x = standardise(convolve(s, array(fusion.enter.mix.weight)), fusion.enter.norm)
        if y is not None:
            y = nearest(y, s.shape[2:])
            gates = convolve(np.concatenate([x, y], 1), array(fusion.gate.weight))
            a, b = np.moveaxis(1 / (1 + np.exp(-gates - array(fusion.gate.bias)[None, :, None, None])), 1, 0)
            x = a[:, None] * x + b[:, None] * y
        y = nearest(x, t.shape[2:])
        total += context(standardise(convolve(y, array(fusion.leave.mix.weight)), fusion.leave.norm), t)
    return total


@pytest.fixture
def walk(leaf):
    """A built method, its step, and the tensors of both sides."""

    def make(levels, **options):
        student = {f"tap{n}": leaf(*ours, seed=n) for n, (ours, _) in enumerate(levels)}
        teacher = {f"tap{n}": leaf(*theirs, seed=n + 9).detach() for n, (_, theirs) in enumerate(levels)}
        step = make_step(student, teacher)
        torch.manual_seed(3)
        method = built(ReviewKD(**{"warmup_epochs": 0, **options}), step)
        for name, value in method.named_parameters():  # so that no scale is 1 and no shift 0
            if "norm" in name:
                torch.nn.init.normal_(value, 1.0, 0.3)
        return method, step, list(student.values()), list(teacher.values())

    return make


@pytest.mark.parametrize("levels", LEVELS)
def test_the_loss_is_that_of_the_walk_by_hand(levels, walk, agree):
    method, step, students, teachers = walk(levels)
    agree(method(step)["review"], 5 * review(method.fusions, list(map(array, students)), list(map(array, teachers))))


@pytest.mark.parametrize("level", [0, 1, 2])
def test_the_gradient_at_every_level_is_that_of_the_walk_by_hand(level, walk, slope, agree, gradient):
    method, step, students, teachers = walk(LEVELS[0])
    s, t = list(map(array, students)), list(map(array, teachers))

    def moved(at):
        return 5 * review(method.fusions, [at if n == level else x for n, x in enumerate(s)], t)

    agree(gradient(method(step)["review"], students[level]), slope(moved, s[level]), relative=2e-5)


def test_the_shallowest_prediction_reads_every_deeper_level(walk):
    method, step, students, _ = walk(LEVELS[0])
    residual = None
    for fusion, tap in zip(method.fusions, reversed(step.pairs), strict=True):
        predicted, residual = fusion(method._level(tap)[0], residual)
    loss = predicted.pow(3).sum()  # the squares of normalised maps do not depend on what was normalised
    assert all(torch.autograd.grad(loss, student, retain_graph=True)[0].abs().max() > 1e-4 for student in students)


@pytest.mark.parametrize("size", [(8, 8), (16, 8), (7, 7), (5, 6), (4, 4), (3, 3), (2, 5), (1, 1)])
def test_the_context_loss_skips_grids_as_large_as_the_map_and_halves_nothing_for_them(size, leaf, agree, slope, gradient):
    student, teacher = leaf(2, 2, *size, seed=1), leaf(2, 2, *size, seed=2).detach()
    s, t = array(student), array(teacher)
    loss = context_loss(student, teacher)
    agree(loss, context(s, t))
    if s.size < 60:
        agree(gradient(loss, student), slope(lambda moved: context(moved, t), s))


def test_a_constant_difference_costs_its_square_on_every_grid(leaf):
    teacher = leaf(2, 3, 8, 8).detach()
    assert float(context_loss(teacher + 0.5, teacher)) == pytest.approx(0.25, rel=1e-5)


def test_equal_maps_cost_nothing(leaf):
    maps = leaf(2, 3, 8, 8).detach()
    assert float(context_loss(maps, maps)) == 0


@pytest.mark.parametrize("size", [(6, 4), (3, 2), (9, 3), (2, 1)])
def test_maps_grow_and_shrink_to_their_nearest_neighbours(size, leaf, agree):
    maps = leaf(2, 3, 3, 2).detach()
    agree(enlarge(maps, size), nearest(array(maps), size))


def test_the_ramp_and_the_weight_are_factors(walk, agree):
    method, step, students, teachers = walk(LEVELS[1], beta=0.6, warmup_epochs=20)
    agree(method(step)["review"], 0.03 * review(method.fusions, list(map(array, students)), list(map(array, teachers))))


def test_levels_are_fused_in_the_channels_of_the_deepest_up_to_512(walk, leaf):
    assert walk(LEVELS[0])[0].fusions[2].enter.mix.weight.shape == (3, 2, 1, 1)
    assert walk(LEVELS[0], middle=7)[0].fusions[2].leave.mix.weight.shape == (3, 7, 3, 3)
    wide = make_step({"embedding": leaf(2, 600)}, {"embedding": leaf(2, 4)})
    assert built(ReviewKD(), wide).fusions[0].enter.mix.weight.shape[0] == 512


@pytest.mark.parametrize(("preset", "beta"), [("resnet20", 0.6), ("resnet32", 1), ("resnet8x4", 5), ("shufflenetv2", 8)])
def test_the_presets_are_the_published_weights_by_student(preset, beta):
    assert ReviewKD(preset=preset).options.beta == beta


def test_the_teacher_is_read_before_its_activations_and_the_student_behind():
    assert list(ReviewKD().taps_in("joint")) == ["stages=stages.pre", "embedding"]


def test_a_batch_of_one_position_trains_with_running_statistics(walk):
    method, step, students, _ = walk([((1, 3), (1, 4))])
    loss = method(step)["review"]
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(students[0].grad).all()


def test_tokens_are_refused_with_a_tap_that_works(leaf):
    step = make_step(student={"blocks.3": leaf(2, 7, 4)}, teacher={"blocks.3": leaf(2, 7, 4)})
    with pytest.raises(TapError, match=r"'blocks.3' the student has \[2, 7, 4\].*'stage2'"):
        built(ReviewKD(), step)


@pytest.mark.parametrize("option", [{"beta": -1}, {"middle": 0}, {"warmup_share": 2}, {"warmup_epochs": -1}])
def test_options_out_of_range_are_refused(option):
    with pytest.raises(SettingsError, match=r"greater than|less than"):
        ReviewKD(**option)


@pytest.mark.slow
def test_the_teacher_s_levels_come_closer_in_training(distil):
    result = distil(["reviewkd"], "digits@train=128@test=64", epochs=2, train={"batch_size": 16}, reviewkd={"warmup_epochs": 0})
    losses = [record["terms"]["reviewkd.review"] for record in result.history]
    assert losses[-1] < 0.9 * losses[0]
