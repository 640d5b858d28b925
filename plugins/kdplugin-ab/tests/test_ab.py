import copy
import math
import re
from functools import partial
from pathlib import Path

import kdzoo
import numpy as np
import pytest
import torch
from kdplugin_ab import ActivationBoundaries, Connector, boundary_loss
from torch import nn

from kdengine import SettingsError, TapError
from kdengine.data.load import load_data
from kdengine.testing import built, make_step

SHAPES = [
    ((1, 3, 2, 2), (1, 3, 2, 2)),
    ((2, 4, 3, 5), (2, 4, 3, 5)),
    ((2, 3, 4, 4), (2, 3, 2, 2)),  # a larger student
    ((3, 2, 2, 2), (3, 2, 4, 4)),  # a larger teacher
    ((2, 2, 6, 2), (2, 2, 3, 4)),  # larger in one direction only
]


def pooled(maps, size):
    """Mean over the boxes that divide a map evenly: [B, C, H, W] -> [B, C, *size]."""
    out = np.zeros((*maps.shape[:2], *size))
    rows, columns = maps.shape[2] // size[0], maps.shape[3] // size[1]
    for i, j in np.ndindex(*size):
        out[:, :, i, j] = maps[:, :, i * rows : (i + 1) * rows, j * columns : (j + 1) * columns].mean((2, 3))
    return out


def cost(s, t, margin):
    """Of one neuron: the four cases of the paper."""
    if t <= 0 and s > -margin:
        return (s + margin) ** 2
    if t > 0 and s <= margin:
        return (s - margin) ** 2
    return 0.0


def loss_of(student, teacher, margin=1.0):
    size = [min(sides) for sides in zip(student.shape[2:], teacher.shape[2:], strict=True)]
    neurons = zip(pooled(student, size).ravel(), pooled(teacher, size).ravel(), strict=True)
    return math.fsum(cost(float(s), float(t), margin) for s, t in neurons) / len(student)


def connected(maps, connector):
    """What a connector makes of a map, from its weights alone, with the statistics of the batch."""
    weight, gain, shift = (value.detach().double().numpy() for value in connector.parameters())
    mixed = np.einsum("bchw,dc->bdhw", maps, weight[:, :, 0, 0])
    mean, variance = mixed.mean((0, 2, 3), keepdims=True), mixed.var((0, 2, 3), keepdims=True)
    return (mixed - mean) / np.sqrt(variance + 1e-5) * gain[:, None, None] + shift[:, None, None]


def arrays(*tensors):
    return [tensor.detach().double().numpy() for tensor in tensors]


def step_of(pairs, phase="init"):
    """A step with the pairs of maps at stage1, stage2 ..."""
    names = [f"stage{number}" for number in range(1, len(pairs) + 1)]
    return make_step(*(dict(zip(names, side, strict=True)) for side in zip(*pairs, strict=True)), phase=phase)


@pytest.fixture
def pair(leaf):
    """The student's leaf and the teacher's tensor, of two shapes."""

    def make(shapes, dtype=torch.float32):
        return leaf(*shapes[0], seed=1, dtype=dtype), leaf(*shapes[1], seed=2, dtype=dtype).detach()

    return make


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("margin", [0.3, 1.0, 2.0])
def test_the_boundary_and_its_gradient_are_those_of_the_formula(shapes, margin, pair, slope, agree, gradient):
    student, teacher = pair(shapes)
    s, t = arrays(student, teacher)
    step = step_of([(student, teacher)])
    loss = built(ActivationBoundaries(margin=margin, scale=2.0), step)(step)["boundary"]
    assert loss.shape == ()
    agree(loss, 2 * loss_of(s, t, margin))
    agree(gradient(loss, student), slope(lambda moved: 2 * loss_of(moved, t, margin), s))


def test_every_tap_weighs_half_as_much_as_the_next(leaf, agree):
    pairs = [(leaf(2, 4, side, side, seed=side), leaf(2, 4, side, side, seed=side + 1).detach()) for side in (8, 4, 2)]
    step = step_of(pairs)
    first, second, third = (loss_of(*arrays(*pair)) for pair in pairs)
    agree(built(ActivationBoundaries(), step)(step)["boundary"], 3e-3 * (first / 4 + second / 2 + third))


def test_only_the_sign_of_the_teacher_counts_and_a_rectifier_does_not_change_it(pair):
    student, teacher = pair(SHAPES[1])
    losses = [boundary_loss(student, moved).item() for moved in (teacher, 1e-6 * teacher, 1e6 * teacher, teacher.relu())]
    assert losses == [losses[0]] * 4


def test_neurons_beyond_the_margin_on_the_right_side_cost_nothing(leaf):
    teacher = leaf(2, 3, 4, 4).detach()
    assert float(boundary_loss(teacher.sign() * 1.01, teacher)) == 0
    assert float(boundary_loss(teacher.sign() * 0.5, teacher)) == pytest.approx(0.25 * 3 * 16)


def test_the_teacher_gets_no_gradient(leaf):
    student, teacher = leaf(2, 3, 4, 4, seed=1), leaf(2, 3, 2, 2, seed=2)
    boundary_loss(student, teacher).backward()
    assert student.grad.abs().max() > 0
    assert teacher.grad is None


def test_other_widths_pass_a_connector_that_learns(pair, slope, agree):
    student, teacher = pair(((2, 3, 4, 4), (2, 5, 2, 2)), dtype=torch.float64)
    s, t = arrays(student, teacher)
    step = step_of([(student, teacher)])
    torch.manual_seed(3)
    method = built(ActivationBoundaries(scale=1.0), step).double()
    (connector,) = method.connectors
    with torch.no_grad():
        for value in method.parameters():
            value.add_(0.1 * torch.randn_like(value))  # batch normalisation begins at 1 and 0, where much cancels

    def formula(moved):
        return loss_of(connected(moved, connector), t)

    loss = method(step)["boundary"]
    agree(loss, formula(s))
    agree(torch.autograd.grad(loss, student, retain_graph=True)[0], slope(formula, s))
    assert all(found.abs().max() > 0 for found in torch.autograd.grad(loss, list(method.parameters())))


def test_a_connector_is_a_convolution_of_one_place_without_bias_drawn_after_the_paper_and_a_normalisation():
    torch.manual_seed(0)
    connector = Connector(64, 128)
    assert sum(value.numel() for value in connector.parameters()) == 64 * 128 + 2 * 128
    assert connector.mix.weight.detach().std().item() == pytest.approx(math.sqrt(2 / 128), rel=0.05)


@pytest.mark.parametrize(("connector", "kinds"), [("auto", ["Identity", "Connector"]), ("always", ["Connector", "Connector"])])
def test_a_connector_stands_where_the_widths_differ_or_always(connector, kinds, leaf):
    pairs = [(leaf(2, 3, 4, 4).detach(), leaf(2, width, 4, 4).detach()) for width in (3, 5)]
    method = built(ActivationBoundaries(connector=connector), step_of(pairs))
    assert [type(module).__name__ for module in method.connectors] == kinds


@pytest.mark.parametrize("width", [3, 5])
def test_dead_maps_give_finite_gradients(width, leaf, gradient):
    student = torch.zeros(2, 3, 4, 4, requires_grad=True)
    for teacher in (leaf(2, width, 4, 4).detach(), torch.zeros(2, width, 4, 4)):
        step = step_of([(student, teacher)])
        assert torch.isfinite(gradient(built(ActivationBoundaries(), step)(step)["boundary"], student)).all()


def test_the_boundaries_have_a_phase_of_their_own_and_leave_the_joint_one_to_the_task():
    method = ActivationBoundaries()
    assert [(phase.name, phase.epochs, phase.task) for phase in method.phases()] == [("init", 0.4, False)]
    assert (method.taps_in("init"), method.taps_in("joint")) == (("stages.pre",), None)
    assert method.task_weight == 1


@pytest.mark.parametrize(
    ("preset", "taps", "weights", "facts"),
    [
        ("official", ("stages.pre",), (0.75e-3, 1.5e-3, 3e-3), {"connector": "auto", "init_epochs": 0.4}),
        ("sseung", ("stage2", "stage3"), (1e-3, 2e-3), {"connector": "auto", "init_epochs": 0.4}),
        ("bhheo", ("stages",), (1e-3, 2e-3, 4e-3), {"connector": "always", "init_epochs": 0.4}),
        ("repdistiller", None, (0.75e-3, 1.5e-3, 3e-3), {"connector": "auto", "init_epochs": 30 / 240}),
    ],
)
def test_a_preset_is_the_variant_of_its_implementation(preset, taps, weights, facts, leaf, agree):
    method = ActivationBoundaries(preset=preset)
    options = method.options.model_dump()
    assert {name: options[name] for name in facts} == facts
    assert (options["taps"], options["margin"]) == (taps, 1)
    pairs = [(leaf(2, 4, side, side, seed=side), leaf(2, 4, side, side, seed=side + 9).detach()) for side in (8, 4, 2)]
    step = step_of(pairs[-len(weights) :])
    terms = built(method, step)(step)
    compared = [arrays(*tap) for tap in pairs[-len(weights) :]]
    if options["connector"] == "always":
        compared = [(connected(s, connector), t) for (s, t), connector in zip(compared, method.connectors, strict=True)]
    agree(terms["boundary"], sum(weight * loss_of(*tap) for weight, tap in zip(weights, compared, strict=True)))


@pytest.mark.parametrize(
    ("options", "fault"),
    [({"epochs": 1}, "'init_epochs'"), ({"margin": 0.0}, "greater than 0"), ({"preset": "offical"}, "'official'")],
)
def test_a_wrong_option_is_refused_with_the_way_out(options, fault):
    with pytest.raises(SettingsError, match=fault):
        ActivationBoundaries(**options)


@pytest.fixture
def received(distil, networks):
    """A run on one batch, and what the last activation of every stage of both networks received in it."""

    def run(*methods, teacher_name="resnet20", count=8, **options):
        student, teacher = networks("resnet8", teacher_name)
        data = load_data(f"digits@train={count}@test=8")
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (data.mean, data.std))
        x = (data.train.images.float() / 255 - mean) / std
        seen = [before_activations(student.train(), x), before_activations(teacher.eval(), x)]
        result = distil(methods, data=data.name, student=student, teacher=teacher, train={"lr": 1e-12}, **options)
        return [record["terms"] for record in result.history], *seen

    return run


def before_activations(network, x):
    """What the activation that ends each stage of a zoo network receives; its running statistics stay as they are."""
    seen, state = [], {name: value.clone() for name, value in network.state_dict().items()}
    for stage in (network.layer1, network.layer2, network.layer3):
        stage[-1].act2.register_forward_pre_hook(partial(note, seen))
    with torch.no_grad():
        network(x)
    for stage in (network.layer1, network.layer2, network.layer3):
        stage[-1].act2._forward_pre_hooks.clear()
    network.load_state_dict(state)
    return arrays(*seen)


def note(seen, module, inputs):
    seen.append(inputs[0].clone())


def weighed(student, teacher):
    """The weights of three stages: a quarter, a half and the whole of the scale."""
    losses = [loss_of(*maps) for maps in zip(student, teacher, strict=True)]
    return 3e-3 * (losses[0] / 4 + losses[1] / 2 + losses[2])


def test_a_run_records_what_the_activations_of_all_stages_receive_and_the_task_alone_afterwards(received):
    (boundary, task), student, teacher = received(ActivationBoundaries(init_epochs=1))
    assert set(boundary) == {"ab.boundary"}
    assert set(task) == {"task"}
    assert min(array.min() for array in student) < -0.5, "the maps must be those before the activation"
    assert boundary["ab.boundary"] == pytest.approx(weighed(student, teacher), rel=1e-3)


def test_a_run_with_the_preset_official_learns_from_the_teachers_outputs_alone_afterwards(received):
    method = ActivationBoundaries(preset="official", init_epochs=1, weight=0.5)
    soft = {"alpha": 1.0, "temperature": 3.0, "t_squared": False}
    (boundary, task), student, teacher = received(method, "st", st=soft)
    assert boundary == {"ab.boundary": pytest.approx(0.5 * weighed(student, teacher), rel=1e-3)}
    assert task["st.soft"] > 0
    assert task.get("task", 0) == 0


def normalised_before_the_next_activation(network, x):
    """In a wide residual network, what the ReLU behind each stage receives: the next normalisation of the raw sum."""
    network, seen, x = copy.deepcopy(network), [], network.conv1(x)
    norms = (network.layer2[0].bn1, network.layer3[0].bn1, network.norm)
    for stage, norm in zip((network.layer1, network.layer2, network.layer3), norms, strict=True):
        x = stage(x)
        seen.append(norm(x))
    return arrays(*seen)


def documented_taps(text):
    """The taps of wide residual networks that a text names, on both sides and beside another student."""
    both, teacher = re.findall(r"ab\.taps=(\S*layer2\.0\.bn1[^\s`]*)", text)
    return both, teacher


def test_the_readme_and_the_recipe_name_the_same_taps_for_wide_residual_networks():
    texts = (Path(__file__).parents[1] / "README.md", Path(kdzoo.__file__).parent / "recipes" / "repdistiller.toml")
    readme, recipe = (documented_taps(text.read_text()) for text in texts)
    assert readme == recipe


@pytest.mark.parametrize("preset", ["official", "repdistiller"])
@pytest.mark.parametrize("pair", [("wrn_16_1", "wrn_40_1"), ("resnet8", "wrn_16_1")])
def test_with_these_taps_the_boundaries_are_those_of_the_normalised_maps(pair, preset, distil, networks):
    both, teacher_only = documented_taps((Path(__file__).parents[1] / "README.md").read_text())
    student, teacher = networks(*pair)
    data = load_data("digits@train=8@test=8")
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (data.mean, data.std))
    x = (data.train.images.float() / 255 - mean) / std
    wide = pair[0].startswith("wrn")
    s = (normalised_before_the_next_activation if wide else before_activations)(copy.deepcopy(student).train(), x)
    t = normalised_before_the_next_activation(copy.deepcopy(teacher).eval(), x)
    options = {"preset": preset, "taps": both if wide else teacher_only, "init_epochs": 1}
    result = distil(["ab"], data=data.name, student=student, teacher=teacher, train={"lr": 1e-12}, ab=options)
    assert min(array.min() for array in s) < -0.5, "the maps must be those before the activation"
    assert result.history[0]["terms"]["ab.boundary"] == pytest.approx(weighed(s, t), rel=1e-3)


def test_a_teacher_of_other_widths_gets_a_connector_a_tap_that_is_trained(received, distil):
    method = ActivationBoundaries(init_epochs=1)
    (boundary, _), student, teacher = received(method, teacher_name="resnet8x4")
    seen = [connected(maps, connector) for maps, connector in zip(student, method.connectors, strict=True)]
    assert boundary["ab.boundary"] == pytest.approx(weighed(seen, teacher), rel=1e-3)


def test_the_preset_bhheo_mixes_labels_and_soft_targets_afterwards(distil):
    method = ActivationBoundaries(preset="bhheo", init_epochs=1)
    result = distil([method, "st"], data="digits@train=16@test=8", st={"preset": "sseung"})
    assert [set(record["terms"]) for record in result.history] == [{"ab.boundary"}, {"task", "st.soft"}]
    assert [type(connector).__name__ for connector in method.connectors] == ["Connector"] * 3


def stages_of(count):
    """A network of a stem and so many stages, each half the size of the one before; no activation ends the last one."""
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True)]
    for _ in range(count):
        layers += [nn.Conv2d(4, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers[:-1], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))


@pytest.mark.parametrize("count", [2, 3, 4])
def test_networks_of_two_to_four_stages_learn_from_one_of_three(count, distil):
    result = distil(["ab"], data="digits@train=8@test=8", student=stages_of(count), ab={"init_epochs": 1})
    assert result.history[0]["terms"]["ab.boundary"] > 0


@pytest.mark.slow
def test_no_epochs_of_boundaries_is_plain_training(distil):
    result = distil(["ab"], data="digits@train=16@test=8", ab={"init_epochs": 0})
    assert [set(record["terms"]) for record in result.history] == [{"task"}]


def test_a_run_refuses_taps_that_hold_no_maps(distil):
    with pytest.raises(TapError, match=r"has \[2, 64\].*maps \[B, C, H, W\]"):
        distil(["ab"], ab={"taps": "embedding"})


def test_a_ragged_last_batch_of_one_trains_like_any_other(distil):
    options = {"init_epochs": 1, "connector": "always"}
    result = distil(["ab"], data="digits@train=65@test=8", ab=options, train={"batch_size": 64})
    assert [record["phase"] for record in result.history] == ["init", "joint"]
    assert all(np.isfinite(value) and value > 0 for record in result.history for value in record["terms"].values())


@pytest.mark.slow
def test_the_students_boundaries_come_closer_to_the_teachers_in_training(distil):
    result = distil(["ab"], data="digits@train=64@test=16", train={"batch_size": 16}, ab={"init_epochs": 4})
    losses = [record["terms"]["ab.boundary"] for record in result.history if record["phase"] == "init"]
    assert losses[-1] < 0.9 * losses[0]
