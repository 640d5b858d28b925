import math

import numpy as np
import pytest
import torch
from kdplugin_sp import SimilarityPreserving, similarities, similarity_loss

from kdengine import SettingsError, TapError
from kdengine.testing import built, make_step

SHAPES = [
    ((2, 3, 2, 2), (2, 3, 2, 2)),
    ((3, 4, 4, 4), (3, 9, 2, 2)),  # other widths and sizes
    ((5, 6), (5, 8)),  # vectors
    ((4, 5, 3), (4, 2, 4, 3)),  # tokens and maps
]


def row_of(features, i):
    """Products of image i with every image of the batch, scaled to length 1, written out."""
    products = [math.fsum(float(a) * float(b) for a, b in zip(features[i], other, strict=True)) for other in features]
    length = math.sqrt(math.fsum(value**2 for value in products))
    return [value / length if length else 0.0 for value in products]


def loss_of(student, teacher):
    flat = [array.reshape(len(array), -1) for array in (student, teacher)]
    rows = [[row_of(features, i) for i in range(len(features))] for features in flat]
    differences = [a - b for s, t in zip(*rows, strict=True) for a, b in zip(s, t, strict=True)]
    return math.fsum(value**2 for value in differences) / len(student) ** 2


def step_of(student, teacher, **more):
    return make_step(student={"stage3": student}, teacher={"stage3": teacher}, **more)


def arrays(*tensors):
    return [tensor.detach().double().numpy() for tensor in tensors]


@pytest.fixture
def pair(leaf):
    """The student's leaf and the teacher's tensor, of two shapes."""
    return lambda shapes: (leaf(*shapes[0], seed=1), leaf(*shapes[1], seed=2).detach())


@pytest.mark.parametrize("shapes", SHAPES)
def test_the_loss_and_its_gradient_are_those_of_the_formula(shapes, pair, slope, agree, gradient):
    student, teacher = pair(shapes)
    s, t = arrays(student, teacher)
    step = step_of(student, teacher)
    loss = built(SimilarityPreserving(beta=50.0), step)(step)["similarity"]
    assert loss.shape == ()
    agree(loss, 50 * loss_of(s, t))
    agree(gradient(loss, student), slope(lambda moved: 50 * loss_of(moved, t), s))


def test_the_weight_is_three_thousand(pair, agree):
    student, teacher = pair(SHAPES[0])
    agree(SimilarityPreserving()(step_of(student, teacher))["similarity"], 3000 * loss_of(*arrays(student, teacher)))


def test_several_taps_are_summed_and_the_preset_zoo_averages_three(leaf, agree):
    pairs = [(leaf(3, 4, side, side, seed=side), leaf(3, 8, side, side, seed=side + 1).detach()) for side in (4, 2, 1)]
    names = ["stage1", "stage2", "stage3"]
    step = make_step(*(dict(zip(names, side, strict=True)) for side in zip(*pairs, strict=True)))
    total = sum(loss_of(*arrays(*pair)) for pair in pairs)
    agree(SimilarityPreserving()(step)["similarity"], 3000 * total)
    method = SimilarityPreserving(preset="zoo")
    assert list(method.taps_in("joint")) == ["stages"]
    agree(method(step)["similarity"], 3000 * total / 3)


def test_every_row_of_similarities_has_unit_length(leaf):
    lengths = similarities(leaf(4, 3, 5, 5).detach()).square().sum(1)
    assert lengths.tolist() == pytest.approx([1.0] * 4, rel=1e-5)


@pytest.mark.parametrize("scale", [1e-12, 37.0, 1e12])
def test_features_that_differ_only_in_scale_cost_nothing(scale, leaf):
    features = leaf(4, 3, 5, 5).detach()
    assert float(similarity_loss(features, scale * features)) < 1e-12


def test_the_teacher_gets_no_gradient(leaf):
    student, teacher = leaf(3, 4, seed=1), leaf(3, 4, seed=2)
    similarity_loss(student, teacher).backward()
    assert student.grad.abs().max() > 0
    assert teacher.grad is None


def test_a_batch_of_one_costs_nothing_and_gives_gradients_of_zero(leaf, gradient):
    student = leaf(1, 3, 4, 4)
    loss = SimilarityPreserving()(step_of(student, leaf(1, 5, 4, 4, seed=1).detach()))["similarity"]
    assert loss.item() == pytest.approx(0, abs=1e-9)
    assert gradient(loss, student).abs().max() < 1e-3


def test_an_image_whose_features_are_dead_follows_the_formula_with_finite_gradients(leaf, agree, gradient):
    student, teacher = leaf(4, 3, 2, 2, seed=1).detach(), leaf(4, 3, 2, 2, seed=2).detach()
    student[2] = 0
    student.requires_grad_()
    loss = similarity_loss(student, teacher)
    agree(loss, loss_of(*arrays(student, teacher)))
    assert gradient(loss, student).abs().max() < 10


def test_a_student_whose_features_are_all_dead_gets_a_finite_loss_and_no_gradient(leaf, gradient):
    student = torch.zeros(4, 3, 2, 2, requires_grad=True)
    loss = similarity_loss(student, leaf(4, 3, 2, 2).detach())
    assert loss.item() == pytest.approx(1 / 4, rel=1e-5)
    assert gradient(loss, student).abs().max() == 0


def test_the_task_keeps_its_full_weight_and_there_is_no_phase_of_its_own():
    assert SimilarityPreserving().task_weight == 1
    assert list(SimilarityPreserving().phases()) == []


@pytest.mark.parametrize(
    ("options", "fault"),
    [({"betta": 1.0}, "'beta'"), ({"beta": -1.0}, "greater than or equal to 0"), ({"preset": "zo"}, "'zoo'")],
)
def test_a_wrong_option_is_refused_with_the_way_out(options, fault):
    with pytest.raises(SettingsError, match=fault):
        SimilarityPreserving(**options)


def test_taps_of_five_axes_are_refused_before_training(leaf):
    step = step_of(leaf(2, 3, 4, 5, 5).detach(), leaf(2, 3, 4, 5, 5).detach())
    with pytest.raises(TapError, match=r"'stage3' the student has \[2, 3, 4, 5, 5\]"):
        built(SimilarityPreserving(), step)


def test_a_run_records_the_last_stage_beside_the_whole_task(one_step):
    (terms,), student, teacher, y = one_step(["sp"])
    assert terms["sp.similarity"] == pytest.approx(3000 * loss_of(student["stage3"], teacher["stage3"]), rel=1e-3)
    z = student["logits"]
    assert terms["task"] == pytest.approx(np.mean(np.log(np.exp(z).sum(1)) - z[np.arange(len(y)), y]), rel=1e-4)


def test_used_twice_each_reads_its_own_taps_also_across_stages(one_step):
    (terms,), student, teacher, _ = one_step(["sp", "sp"], sp={"taps": ["stage2"]}, sp_2={"taps": ["logits=embedding"]})
    assert terms["sp.similarity"] == pytest.approx(3000 * loss_of(student["stage2"], teacher["stage2"]), rel=1e-3)
    assert terms["sp-2.similarity"] == pytest.approx(3000 * loss_of(student["logits"], teacher["embedding"]), rel=1e-3)


def test_a_ragged_last_batch_of_one_trains_like_any_other(distil):
    result = distil(["sp"], data="digits@train=129@test=64")
    assert all(np.isfinite(value) and value > 0 for record in result.history for value in record["terms"].values())


def test_a_run_whose_batches_hold_one_image_each_goes_through(distil):
    result = distil(["sp"], data="digits@train=1@test=4")
    assert result.history[0]["terms"]["sp.similarity"] == pytest.approx(0, abs=1e-6)


@pytest.mark.slow
def test_similarities_come_closer_to_the_teachers_in_training(distil):
    result = distil(["sp"], "digits@train=128@test=64", epochs=2, train={"batch_size": 16})
    losses = [record["terms"]["sp.similarity"] for record in result.history]
    assert losses[-1] < 0.7 * losses[0]
