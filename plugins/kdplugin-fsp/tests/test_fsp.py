from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from kdplugin_fsp import FSP, flow_loss, flow_matrix
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from kdengine import SettingsError, TapError, hookimpl
from kdengine.testing import built, make_step

SHAPES = [  # the taps of the student, and of the teacher
    ([(1, 2, 2, 2), (1, 3, 2, 2)], [(1, 2, 2, 2), (1, 3, 2, 2)]),
    ([(2, 3, 4, 4), (2, 2, 2, 2)], [(2, 3, 8, 8), (2, 2, 4, 4)]),  # smaller maps in the student, and behind
    ([(2, 2, 6, 2), (2, 3, 3, 4)], [(2, 2, 4, 4), (2, 3, 4, 4)]),  # larger in one direction only; tokens of one size
    ([(2, 2, 4, 4), (2, 2, 4, 4), (2, 3, 2, 2)], [(2, 2, 3, 3), (2, 2, 3, 3), (2, 3, 1, 1)]),  # two pairs
    ([(2, 2, 2, 2), (2, 2, 4, 4)], [(2, 2, 2, 2), (2, 2, 2, 2)]),  # a flow that widens
]
OTHER_WIDTHS = ([(2, 2, 4, 4), (2, 3, 2, 2), (2, 3, 2, 2)], [(2, 4, 4, 4), (2, 3, 2, 2), (2, 2, 2, 2)])


def boxed(maps, size, reduce):
    """What is left of the boxes that divide a map evenly: [B, C, H, W] -> [B, C, *size]."""
    out = np.zeros((*maps.shape[:2], *size))
    rows, columns = maps.shape[2] // size[0], maps.shape[3] // size[1]
    for i, j in np.ndindex(*size):
        out[:, :, i, j] = reduce(maps[:, :, i * rows : (i + 1) * rows, j * columns : (j + 1) * columns], axis=(2, 3))
    return out


def matrix_of(earlier, later, pool="max"):
    """G of two layers, place by place: [B, C, D]."""
    size = [min(sides) for sides in zip(earlier.shape[2:], later.shape[2:], strict=True)]
    earlier, later = (boxed(maps, size, {"max": np.max, "avg": np.mean}[pool]) for maps in (earlier, later))
    total = np.zeros((len(earlier), earlier.shape[1], later.shape[1]))
    for i, j in np.ndindex(*size):
        total += earlier[:, :, i, j][:, :, None] * later[:, :, i, j][:, None, :]
    return total / (size[0] * size[1])


def loss_of(student, teacher, pool="max", reduction="mean"):
    """The sum over all pairs of consecutive maps."""
    total = 0.0
    for maps in zip(pairwise(student), pairwise(teacher), strict=True):
        g_s, g_t = (matrix_of(*pair, pool) for pair in maps)
        squared = sum(float(value) ** 2 for value in (g_s - g_t).ravel())
        total += squared / g_s.size if reduction == "mean" else 0.5 * squared / len(g_s)
    return total


def loss_with(student, number, teacher, options, moved):
    """The loss after one of the student's maps has moved."""
    return loss_of([*student[:number], moved, *student[number + 1 :]], teacher, **options)


def adapted(maps, adapter):
    """What an adapter makes of a map, from its weights alone, with the statistics of the batch."""
    if isinstance(adapter, nn.Identity):
        return maps
    weight, gain, shift = (value.detach().double().numpy() for value in adapter.parameters())
    mixed = np.einsum("bchw,dc->bdhw", maps, weight[:, :, 0, 0])
    mean, variance = mixed.mean((0, 2, 3), keepdims=True), mixed.var((0, 2, 3), keepdims=True)
    return (mixed - mean) / np.sqrt(variance + 1e-5) * gain[:, None, None] + shift[:, None, None]


def arrays(tensors):
    return [tensor.detach().double().numpy() for tensor in tensors]


@pytest.fixture
def maps(leaf):
    """A step on random maps at stage1, stage2 ..., the student's leaves, and the arrays of both sides."""

    def make(shapes, dtype=torch.float32, phase="fsp"):
        student = [leaf(*shape, seed=number, dtype=dtype) for number, shape in enumerate(shapes[0])]
        teacher = [leaf(*shape, seed=number + 9, dtype=dtype).detach() for number, shape in enumerate(shapes[1])]
        taps = [{f"stage{number}": tensor for number, tensor in enumerate(side, 1)} for side in (student, teacher)]
        return make_step(*taps, phase=phase), student, arrays(student), arrays(teacher)

    return make


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("options", [{}, {"pool": "avg"}, {"reduction": "sum_half"}], ids=str)
def test_the_loss_and_its_gradients_are_those_of_the_formula(shapes, options, maps, slope, agree, gradient):
    step, student, s, t = maps(shapes)
    method = built(FSP(**options), step)
    assert list(method.parameters()) == []
    loss = method(step)["flow"]
    assert loss.shape == ()
    agree(loss, loss_of(s, t, **options))
    for number, leaf in enumerate(student):
        formula = partial(loss_with, s, number, t, options)
        agree(torch.autograd.grad(loss, leaf, retain_graph=True)[0], slope(formula, s[number]))


def test_a_matrix_is_the_mean_over_the_places_of_the_products_of_channels(leaf, agree):
    earlier, later = leaf(3, 4, 6, 6, seed=1).detach(), leaf(3, 5, 3, 3, seed=2).detach()
    for pool in ("max", "avg"):
        agree(flow_matrix(earlier, later, pool), matrix_of(earlier.double().numpy(), later.double().numpy(), pool))


def test_sizes_that_do_not_divide_each_other_are_pooled_all_the_same(leaf):
    assert flow_matrix(leaf(2, 3, 7, 7), leaf(2, 4, 3, 2)).shape == (2, 3, 4)


def test_other_widths_pass_an_adapter_on_the_students_side(maps, slope, agree):
    step, student, s, t = maps(OTHER_WIDTHS, dtype=torch.float64)
    torch.manual_seed(3)
    method = built(FSP(), step)
    assert [type(adapter).__name__ for adapter in method.adapters] == ["Adapter", "Identity", "Adapter"]
    with torch.no_grad():
        for value in method.parameters():
            value.add_(0.1 * torch.randn_like(value))  # batch normalisation begins at 1 and 0, where much cancels
    method.double()

    def formula(first):
        seen = [adapted(value, adapter) for value, adapter in zip([first, *s[1:]], method.adapters, strict=True)]
        return loss_of(seen, t)

    loss = method(step)["flow"]
    agree(loss, formula(s[0]))
    agree(torch.autograd.grad(loss, student[0], retain_graph=True)[0], slope(formula, s[0]))
    assert all(found.abs().max() > 0 for found in torch.autograd.grad(loss, list(method.parameters())))


def test_the_teacher_gets_no_gradient(leaf):
    student, teacher = leaf(2, 3, 4, seed=1), leaf(2, 3, 4, seed=2)
    flow_loss(student, teacher).backward()
    assert student.grad.abs().max() > 0
    assert teacher.grad is None


def test_dead_maps_give_finite_gradients(leaf, maps):
    step, student, *_ = maps(OTHER_WIDTHS)
    with torch.no_grad():
        student[0].zero_()
    loss = built(FSP(), step)(step)["flow"]
    assert all(torch.isfinite(found).all() for found in torch.autograd.grad(loss, student))


def test_two_networks_with_one_flow_cost_nothing(leaf):
    maps = [leaf(2, 3, 4, 4, seed=number).detach() for number in range(3)]
    taps = {f"stage{number}": tensor for number, tensor in enumerate(maps, 1)}
    step = make_step(student=taps, teacher=taps, phase="fsp")
    assert float(built(FSP(), step)(step)["flow"]) == 0


class Largest(TorchDispatchMode):
    """Notes the number of elements of the largest tensor that is made inside."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.size = max(self.size, out.numel())
        return out


def test_no_tensor_holds_the_places_of_every_pair_of_channels(leaf):
    with Largest() as largest:
        flow_matrix(leaf(2, 16, 5, 5, seed=1), leaf(2, 24, 5, 5, seed=2)).square().mean().backward()
    assert largest.size <= 2 * 24 * 25


def test_the_flow_comes_first_in_two_phases_and_beside_the_task_in_one():
    two, one = FSP(), FSP(mode="joint")
    assert [(phase.name, phase.epochs, phase.task) for phase in two.phases()] == [("fsp", 0.4, False)]
    assert (two.taps_in("fsp"), two.taps_in("joint")) == (("stem", "stages"), None)
    assert (list(one.phases()), one.taps_in("joint")) == ([], ("stem", "stages"))
    assert two.task_weight == one.task_weight == 1


@pytest.mark.parametrize(
    ("preset", "facts"),
    [
        ("sseung", {"taps": ("stage2", "stage3"), "fsp_epochs": 0.4, "mode": "two_phase"}),
        ("bhheo", {"taps": ("stages",), "fsp_epochs": 0.4, "mode": "two_phase"}),
        ("repdistiller", {"taps": None, "fsp_epochs": 30 / 240, "mode": "two_phase"}),
        ("zoo", {"taps": None, "fsp_epochs": 50 / 200, "mode": "two_phase"}),
    ],
)
def test_a_preset_has_the_taps_and_epochs_of_its_implementation(preset, facts):
    options = FSP(preset=preset).options.model_dump()
    assert {name: options[name] for name in facts} == facts


def of_sseung(student, teacher):
    """Half the squares of all pairs together, mean over the batch, divided by the number of elements of all matrices."""
    pairs = [[matrix_of(*layers) for layers in pairwise(side)] for side in (student, teacher)]
    halves = [0.5 * ((g_s - g_t) ** 2).sum((1, 2)).mean() for g_s, g_t in zip(*pairs, strict=True)]
    return sum(halves) / sum(g_s[0].size for g_s in pairs[0])


@pytest.mark.parametrize(
    ("preset", "taps", "formula"),
    [
        ("sseung", 2, of_sseung),
        ("bhheo", 3, lambda s, t: 1e-3 * loss_of(s, t, reduction="sum_half")),
        ("repdistiller", 4, lambda s, t: loss_of(s, t, pool="avg")),
        ("zoo", 4, lambda s, t: loss_of(s, t, pool="avg") / 3),
    ],
)
def test_a_preset_is_the_variant_of_its_implementation(preset, taps, formula, maps, agree):
    shapes = [(2, 3, 8, 8), (2, 4, 8, 8), (2, 5, 4, 4), (2, 6, 2, 2)][:taps]
    step, _, s, t = maps((shapes, shapes))
    method = built(FSP(preset=preset), step)
    agree(method.options.weight * method(step)["flow"], formula(s, t))


def test_a_single_tap_is_refused_with_the_way_out(maps):
    step, *_ = maps(([(2, 3, 4, 4)], [(2, 3, 4, 4)]))
    with pytest.raises(TapError, match=r"'stage1' is the only tap.*fsp\.taps='stage1,stage2'"):
        built(FSP(), step)


@pytest.mark.parametrize(
    ("options", "fault"),
    [({"epochs": 1}, "'fsp_epochs'"), ({"pool": "mean"}, "'max' or 'avg'"), ({"preset": "bheo"}, "'bhheo'")],
)
def test_a_wrong_option_is_refused_with_the_way_out(options, fault):
    with pytest.raises(SettingsError, match=fault):
        FSP(**options)


NAMES = ["stage0", "stage1", "stage2", "stage3"]


def test_a_run_records_the_flow_from_the_stem_on_first_and_the_task_alone_afterwards(one_step):
    (flow, task), student, teacher, _ = one_step(["fsp"], fsp={"fsp_epochs": 1})
    assert set(flow) == {"fsp.flow"}
    assert set(task) == {"task"}
    s, t = ([network[name] for name in NAMES] for network in (student, teacher))
    assert flow["fsp.flow"] == pytest.approx(loss_of(s, t), rel=1e-3)


def test_a_run_with_the_preset_sseung_has_one_pair(one_step):
    (flow, _), student, teacher, _ = one_step(["fsp"], fsp={"preset": "sseung", "fsp_epochs": 1})
    s, t = ([network[name] for name in NAMES[2:]] for network in (student, teacher))
    assert flow["fsp.flow"] == pytest.approx(of_sseung(s, t), rel=1e-3)


def test_a_teacher_of_other_widths_gets_an_adapter_a_tap(one_step):
    method = FSP(mode="joint", weight=2.0)
    (terms,), student, teacher, _ = one_step([method], teacher_name="resnet8x4")
    seen = [adapted(student[name], adapter) for name, adapter in zip(NAMES, method.adapters, strict=True)]
    assert set(terms) == {"task", "fsp.flow"}
    assert terms["fsp.flow"] == pytest.approx(2 * loss_of(seen, [teacher[name] for name in NAMES]), rel=1e-3)


def test_a_transformer_with_more_stages_of_one_size_teaches_too(distil):
    teacher = VisionTransformer(img_size=32, patch_size=8, num_classes=10, embed_dim=12, depth=5, num_heads=2)
    method = FSP(fsp_epochs=1)
    result = distil([method], data="digits@train=16@test=8", teacher=teacher)
    assert [adapter.mix.out_channels for adapter in method.adapters] == [12] * 4
    assert result.history[0]["terms"]["fsp.flow"] > 0


class Watch:
    """An observer that keeps the student's weights at the end of each epoch, by the name of the phase."""

    def __init__(self):
        self.weights = {}

    @hookimpl
    def kdengine_after_epoch(self, run, record):
        lane = run.lane
        self.weights[record["phase"]] = {name: value.clone() for name, value in lane.student.state_dict().items()}


def test_the_flow_moves_nothing_above_its_last_tap_and_the_task_moves_all(distil, networks):
    (student,) = networks("resnet8")
    before, watch = {name: value.clone() for name, value in student.state_dict().items()}, Watch()
    options = {"fsp_epochs": 1, "taps": "stage1,stage2"}
    distil(["fsp"], "digits@train=32@test=8", student=student, fsp=options, observers=[watch])
    moved = {
        phase: {name for name, value in weights.items() if not torch.equal(value, before[name])}
        for phase, weights in watch.weights.items()
    }
    assert {name.split(".")[0] for name in moved["fsp"]} == {"conv1", "bn1", "layer1", "layer2"}
    assert moved["joint"] == set(before)


def test_a_run_refuses_taps_that_hold_no_maps(distil):
    with pytest.raises(TapError, match=r"has \[2, 64\].*maps \[B, C, H, W\]"):
        distil(["fsp"], fsp={"taps": "stage3,embedding"})


def test_a_ragged_last_batch_of_one_trains_like_any_other(distil):
    result = distil(["fsp"], data="digits@train=65@test=8", fsp={"fsp_epochs": 1}, train={"batch_size": 64})
    assert [record["phase"] for record in result.history] == ["fsp", "joint"]
    assert all(np.isfinite(value) and value > 0 for record in result.history for value in record["terms"].values())


@pytest.mark.slow
def test_the_students_flow_comes_closer_to_the_teachers_in_training(distil):
    result = distil(["fsp"], "digits@train=128@test=64", train={"batch_size": 16}, fsp={"fsp_epochs": 3})
    flows = [record["terms"]["fsp.flow"] for record in result.history if record["phase"] == "fsp"]
    assert flows[-1] < 0.7 * flows[0]
