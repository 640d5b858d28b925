from typing import ClassVar

import numpy as np
import pytest
import torch
from kdplugin_at import AttentionTransfer, attention_loss, attention_map

from kdengine import SettingsError, TapError
from kdengine.testing import DistillerContract, built, make_step

SHAPES = [
    ((1, 3, 2, 2), (1, 3, 2, 2)),
    ((2, 4, 4, 4), (2, 9, 4, 4)),  # other widths
    ((2, 3, 8, 8), (2, 5, 4, 4)),  # a larger student
    ((3, 2, 3, 3), (3, 6, 6, 6)),  # a larger teacher
    ((2, 2, 6, 2), (2, 3, 3, 4)),  # larger in one direction only
]


class TestContract(DistillerContract):
    method = "at"
    at_equality: ClassVar = {"attention": 0.0}


def pooled(maps, size):
    """Mean over the boxes that divide a map evenly: [B, C, H, W] -> [B, C, *size]."""
    out = np.zeros((*maps.shape[:2], *size))
    rows, columns = maps.shape[2] // size[0], maps.shape[3] // size[1]
    for i, j in np.ndindex(*size):
        out[:, :, i, j] = maps[:, :, i * rows : (i + 1) * rows, j * columns : (j + 1) * columns].mean((2, 3))
    return out


def attention(maps, power=2.0):
    """Q of every image, written out: [B, C, H, W] -> [B, H W]."""
    maps_of_images = []
    for image in maps:
        energy = sum(np.abs(channel) ** power for channel in image).ravel() / len(image)
        maps_of_images.append(energy / np.sqrt((energy**2).sum()))
    return np.array(maps_of_images)


def loss_of(student, teacher, power=2.0):
    size = [min(sides) for sides in zip(student.shape[2:], teacher.shape[2:], strict=True)]
    squared = (attention(pooled(student, size), power) - attention(pooled(teacher, size), power)) ** 2
    return squared.sum() / squared.size


@pytest.fixture
def maps(leaf):
    """A step on random maps, the student's leaf, and both as float64 arrays."""

    def make(shapes):
        student, teacher = leaf(*shapes[0], seed=1), leaf(*shapes[1], seed=2).detach()
        step = make_step(student={"stage2": student}, teacher={"stage2": teacher})
        return step, student, student.detach().double().numpy(), teacher.double().numpy()

    return make


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("power", [1.0, 2.0, 4.0])
def test_the_loss_and_its_gradient_are_those_of_the_formula(shapes, power, maps, slope, agree, gradient):
    step, student, s, t = maps(shapes)
    loss = AttentionTransfer(power=power, beta=50.0)(step)["attention"]
    agree(loss, 50 * loss_of(s, t, power))
    agree(gradient(loss, student), slope(lambda moved: 50 * loss_of(moved, t, power), s))


def test_the_stages_are_summed_and_weighed_by_a_thousand(leaf, agree):
    student = {f"stage{side}": leaf(2, 4, side, side, seed=side) for side in (8, 4, 2)}
    teacher = {f"stage{side}": leaf(2, 8, side, side, seed=side + 1).detach() for side in (8, 4, 2)}
    losses = [loss_of(student[name].detach().double().numpy(), teacher[name].double().numpy()) for name in student]
    agree(AttentionTransfer()(make_step(student, teacher))["attention"], 1000 * sum(losses))


def test_half_halves_the_loss_and_so_does_the_preset_sseung(maps, agree):
    step, _, s, t = maps(SHAPES[1])
    agree(AttentionTransfer(half=True)(step)["attention"], 500 * loss_of(s, t))
    agree(AttentionTransfer(preset="sseung")(step)["attention"], 500 * loss_of(s, t))


def test_maps_that_differ_only_in_scale_cost_nothing(leaf):
    maps = leaf(2, 4, 5, 5).detach()
    assert float(attention_loss(maps, 37 * maps)) < 1e-13


def test_an_attention_map_has_unit_length_for_every_image(leaf):
    lengths = attention_map(leaf(4, 3, 5, 5).detach()).square().sum(1)
    assert lengths.tolist() == pytest.approx([1.0] * 4, rel=1e-5)


@pytest.mark.parametrize("power", [1.0, 1.5, 2.0])
def test_a_dead_map_gets_no_gradient_and_breaks_none(power, leaf, gradient):
    student = torch.zeros(2, 3, 4, 4, requires_grad=True)
    loss = attention_loss(student, leaf(2, 3, 4, 4).detach(), power)
    assert loss.item() == pytest.approx(1 / 16, rel=1e-5)
    assert gradient(loss, student).abs().max() == 0


def test_zeros_of_a_rectifier_give_finite_gradients(leaf, gradient):
    student = leaf(2, 3, 4, 4, seed=3, rectified=True).detach().requires_grad_()
    assert torch.isfinite(gradient(attention_loss(student, leaf(2, 3, 4, 4).detach()), student)).all()


def test_the_task_keeps_its_full_weight_and_there_is_no_phase_of_its_own():
    assert AttentionTransfer().task_weight == 1
    assert list(AttentionTransfer().phases()) == []


def test_a_power_below_one_is_refused():
    with pytest.raises(SettingsError, match="greater than or equal to 1"):
        AttentionTransfer(power=0.5)


def test_taps_that_hold_no_maps_are_refused(leaf):
    step = make_step(student={"embedding": leaf(2, 64)}, teacher={"embedding": leaf(2, 64)})
    with pytest.raises(TapError, match=r"has \[2, 64\].*maps \[B, C, H, W\]"):
        built(AttentionTransfer(), step)


def test_a_run_records_the_sum_over_all_stages_beside_the_whole_task(one_step):
    (terms,), student, teacher, y = one_step(["at"])
    expected = 1000 * sum(loss_of(student[name], teacher[name]) for name in ("stage1", "stage2", "stage3"))
    assert terms["at.attention"] == pytest.approx(expected, rel=1e-4)
    z = student["logits"]
    task = np.mean(np.log(np.exp(z).sum(1)) - z[np.arange(len(y)), y])
    assert terms["task"] == pytest.approx(task, rel=1e-4)


def test_used_twice_each_reads_its_own_taps_also_across_stages(one_step):
    (terms,), student, teacher, _ = one_step(["at", "at"], at={"taps": ["stage2"]}, at_2={"taps": ["stage3=stage2"]})
    assert terms["at.attention"] == pytest.approx(1000 * loss_of(student["stage2"], teacher["stage2"]), rel=1e-4)
    assert terms["at-2.attention"] == pytest.approx(1000 * loss_of(student["stage3"], teacher["stage2"]), rel=1e-4)


def test_a_teacher_of_other_widths_needs_no_connector(one_step):
    (terms,), student, teacher, _ = one_step(["at"], teacher_name="resnet8x4", at={"weight": 0.5, "taps": ["layer3"]})
    assert terms["at.attention"] == pytest.approx(500 * loss_of(student["stage3"], teacher["stage3"]), rel=1e-4)


@pytest.mark.slow
def test_attention_comes_closer_to_the_teachers_in_training(distil):
    result = distil(["at"], "digits@train=128@test=64", epochs=2, train={"batch_size": 16})
    losses = [record["terms"]["at.attention"] for record in result.history]
    assert losses[-1] < 0.5 * losses[0]
