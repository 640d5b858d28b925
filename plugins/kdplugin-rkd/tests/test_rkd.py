import math
from itertools import product
from typing import ClassVar

import numpy as np
import pytest
import torch
from kdplugin_rkd import RKD, angle_loss, distance_loss

from kdengine import SettingsError, TapError
from kdengine.testing import DistillerContract, built, make_step

SHAPES = [((2, 3), (2, 3)), ((3, 4), (3, 9)), ((5, 6), (5, 2)), ((6, 8), (6, 5)), ((11, 3), (11, 2))]


class TestContract(DistillerContract):
    method = "rkd"
    at_equality: ClassVar = {"distance": 0.0, "angle": 0.0}


def huber(difference):
    size = abs(difference)
    return 0.5 * size**2 if size < 1 else size - 0.5


def distances(x, diagonal=False):
    """psi_D of all pairs: the distances over their mean, written out."""
    count = len(x)
    table = [[math.dist(x[i], x[j]) for j in range(count)] for i in range(count)]
    mean = sum(map(sum, table)) / (count**2 if diagonal else count * (count - 1))
    return [[value / mean for value in row] for row in table]


def distance_of(student, teacher, diagonal=False):
    s, t = distances(student, diagonal), distances(teacher, diagonal)
    places = list(product(range(len(student)), repeat=2))
    return sum(huber(s[i][j] - t[i][j]) for i, j in places) / len(places)


def cosine(x, i, j, k):
    """psi_A of a triplet: the cosine of the angle at j, zero where a side has no length."""
    a, b = x[i] - x[j], x[k] - x[j]
    lengths = math.sqrt(float(a @ a)) * math.sqrt(float(b @ b))
    return float(a @ b) / lengths if lengths else 0.0


def angle_of(student, teacher):
    triplets = list(product(range(len(student)), repeat=3))
    return sum(huber(cosine(student, *triplet) - cosine(teacher, *triplet)) for triplet in triplets) / len(triplets)


def l2_normalize(x):
    return x / np.sqrt((x**2).sum(1, keepdims=True))


def step_of(student, teacher):
    return make_step(student={"embedding": student}, teacher={"embedding": teacher})


def arrays(*tensors):
    return [tensor.detach().double().numpy() for tensor in tensors]


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize(("term", "weight", "formula"), [("distance", 25, distance_of), ("angle", 50, angle_of)])
def test_both_terms_and_their_gradients_are_those_of_the_formula(shapes, term, weight, formula, leaf, slope, agree, gradient):
    student, teacher = leaf(*shapes[0], seed=1), leaf(*shapes[1], seed=2).detach()
    s, t = arrays(student, teacher)
    loss = RKD()(step_of(student, teacher))[term]
    if shapes[0][0] == 2:  # two images have one distance and no angle, so any two of them agree
        assert loss.item() == pytest.approx(weight * formula(s, t), abs=1e-5)
        return
    agree(loss, weight * formula(s, t))
    agree(gradient(loss, student), slope(lambda moved: weight * formula(moved, t), s))


def test_far_differences_count_linearly(agree, gradient):
    """One image far away in the student alone: the scaled distances differ by more than 1, beyond Huber's bend."""
    student = torch.tensor([[0.0, 0], [1, 0], [0, 1], [1, 1], [90, 70]], requires_grad=True)
    teacher = torch.tensor([[0.0, 0], [1, 0], [2, 0], [3, 0], [4, 0.5]])
    s, t = arrays(student, teacher)
    assert max(abs(a - b) for rows in zip(distances(s), distances(t), strict=True) for a, b in zip(*rows, strict=True)) > 1
    agree(distance_loss(student, teacher), distance_of(s, t))


def test_the_weights_are_options(leaf, agree):
    student, teacher = leaf(4, 3, seed=1), leaf(4, 3, seed=2).detach()
    terms = RKD(distance=1.0, angle=2.0)(step_of(student, teacher))
    agree(terms["distance"], distance_of(*arrays(student, teacher)))
    agree(terms["angle"], 2 * angle_of(*arrays(student, teacher)))


def test_l2_normalize_puts_every_embedding_on_the_unit_sphere_first(leaf, slope, agree, gradient):
    student, teacher = leaf(4, 3, seed=1), leaf(4, 5, seed=2).detach()
    s, t = arrays(student, teacher)
    terms = RKD(l2_normalize=True)(step_of(student, teacher))
    agree(terms["distance"], 25 * distance_of(l2_normalize(s), l2_normalize(t)))
    agree(gradient(terms["angle"], student), slope(lambda moved: 50 * angle_of(l2_normalize(moved), l2_normalize(t)), s))


def test_count_diagonal_divides_by_all_b_squared_pairs(leaf, slope, agree, gradient):
    student, teacher = leaf(4, 3, seed=1), leaf(4, 5, seed=2).detach()
    s, t = arrays(student, teacher)
    loss = RKD(count_diagonal=True)(step_of(student, teacher))["distance"]
    agree(loss, 25 * distance_of(s, t, diagonal=True))
    agree(gradient(loss, student), slope(lambda moved: 25 * distance_of(moved, t, diagonal=True), s))


def test_the_preset_bhheo_relates_normalised_logits_with_weights_of_100_and_200(leaf, agree):
    method = RKD(preset="bhheo")
    student, teacher = leaf(5, 10, seed=1), leaf(5, 10, seed=2).detach()
    s, t = (l2_normalize(array) for array in arrays(student, teacher))
    terms = method(make_step(student_logits=student, teacher_logits=teacher))
    assert list(method.taps_in("joint")) == ["logits"]
    agree(terms["distance"], 100 * distance_of(s, t, diagonal=True))
    agree(terms["angle"], 200 * angle_of(s, t))


def test_maps_are_averaged_over_their_places_and_tokens_over_their_number(leaf, agree):
    maps, tokens = leaf(4, 3, 2, 5, seed=1), leaf(4, 7, 6, seed=2).detach()
    s, t = arrays(maps, tokens)
    terms = RKD()(step_of(maps, tokens))
    agree(terms["distance"], 25 * distance_of(s.mean((2, 3)), t.mean(1)))
    agree(terms["angle"], 50 * angle_of(s.mean((2, 3)), t.mean(1)))


def test_several_taps_are_summed(leaf, agree):
    student = {"stage1": leaf(4, 3, seed=1), "stage2": leaf(4, 6, seed=2)}
    teacher = {"stage1": leaf(4, 2, seed=3).detach(), "stage2": leaf(4, 5, seed=4).detach()}
    angles = [angle_of(*arrays(student[name], teacher[name])) for name in student]
    agree(RKD()(make_step(student, teacher))["angle"], 50 * sum(angles))


def test_a_batch_of_one_costs_nothing_and_gives_gradients_of_zero(leaf, gradient):
    student = leaf(1, 4)
    terms = RKD()(step_of(student, leaf(1, 4, seed=1).detach()))
    assert {name: term.item() for name, term in terms.items()} == {"distance": 0, "angle": 0}
    assert gradient(sum(terms.values()), student).abs().max() == 0


def test_images_that_coincide_on_both_sides_follow_the_formula_with_finite_gradients(leaf, agree, gradient):
    student, teacher = leaf(5, 3, seed=1).detach(), leaf(5, 3, seed=2).detach()
    student[3], teacher[3] = student[0], teacher[0]
    student.requires_grad_()
    s, t = arrays(student, teacher)
    agree(distance_loss(student, teacher), distance_of(s, t))
    agree(angle_loss(student, teacher), angle_of(s, t))
    assert gradient(angle_loss(student, teacher) + distance_loss(student, teacher), student).abs().max() < 10


def test_images_that_coincide_in_the_student_alone_do_not_explode(leaf, gradient):
    student, teacher = leaf(5, 3, seed=1).detach(), leaf(5, 3, seed=2).detach()
    student[3] = student[0]
    student.requires_grad_()
    assert gradient(angle_loss(student, teacher) + distance_loss(student, teacher), student).abs().max() < 10


def test_a_student_whose_embeddings_have_all_collapsed_gets_a_finite_loss_and_no_gradient(leaf, gradient):
    student = torch.zeros(4, 3, requires_grad=True)
    terms = RKD(l2_normalize=True)(step_of(student, leaf(4, 3).detach()))
    assert torch.isfinite(sum(terms.values()))
    assert gradient(sum(terms.values()), student).abs().max() == 0


def test_scale_shift_and_rotation_of_the_student_change_nothing(leaf):
    student, teacher = leaf(6, 4, seed=1).detach(), leaf(6, 4, seed=2).detach()
    rotation = torch.linalg.qr(leaf(4, 4, seed=3).detach())[0]
    moved = 7 * student @ rotation + 2
    for loss in (distance_loss, angle_loss):
        assert float(loss(moved, teacher)) == pytest.approx(float(loss(student, teacher)), rel=1e-4)


def test_equal_relations_cost_nothing(leaf):
    student = leaf(6, 4).detach()
    assert float(distance_loss(student, 3 * student)) == pytest.approx(0, abs=1e-10)
    assert float(angle_loss(student, 3 * student)) == pytest.approx(0, abs=1e-10)


def test_the_task_keeps_its_full_weight_and_there_is_no_phase_of_its_own():
    assert RKD().task_weight == 1
    assert list(RKD().phases()) == []


@pytest.mark.parametrize("option", ["distance", "angle"])
def test_a_negative_weight_is_refused(option):
    with pytest.raises(SettingsError, match="greater than or equal to 0"):
        RKD(**{option: -1.0})


def test_taps_of_five_axes_are_refused(leaf):
    step = make_step(student={"clip": leaf(2, 3, 4, 5, 5)}, teacher={"clip": leaf(2, 3, 4, 5, 5)})
    with pytest.raises(TapError, match=r"'clip' the student has \[2, 3, 4, 5, 5\]"):
        built(RKD(), step)


def test_a_run_records_both_terms_of_the_pooled_features(one_step):
    (terms,), student, teacher, _ = one_step(["rkd"])
    s, t = student["embedding"], teacher["embedding"]
    assert terms["rkd.distance"] == pytest.approx(25 * distance_of(s, t), rel=1e-3)
    assert terms["rkd.angle"] == pytest.approx(50 * angle_of(s, t), rel=1e-3)


def test_a_run_with_the_preset_bhheo_reads_the_logits(one_step):
    (terms,), student, teacher, _ = one_step(["rkd"], rkd={"preset": "bhheo"})
    s, t = l2_normalize(student["logits"]), l2_normalize(teacher["logits"])
    assert terms["rkd.distance"] == pytest.approx(100 * distance_of(s, t, diagonal=True), rel=1e-3)
    assert terms["rkd.angle"] == pytest.approx(200 * angle_of(s, t), rel=1e-3)


def test_used_twice_each_reads_its_own_taps_also_across_stages(one_step):
    (terms,), student, teacher, _ = one_step(
        ["rkd", "rkd"], rkd={"taps": ["logits=embedding"], "angle": 0.0}, rkd_2={"taps": ["stage3=stage2"], "weight": 0.5}
    )
    s, t = student["stage3"].mean((2, 3)), teacher["stage2"].mean((2, 3))
    assert terms["rkd.distance"] == pytest.approx(25 * distance_of(student["logits"], teacher["embedding"]), rel=1e-3)
    assert terms["rkd-2.angle"] == pytest.approx(25 * angle_of(s, t), rel=1e-3)


@pytest.mark.slow
def test_relations_come_closer_to_the_teachers_in_training(distil):
    result = distil(["rkd"], "digits@train=128@test=64", epochs=2, train={"batch_size": 16})
    losses = [record["terms"]["rkd.angle"] for record in result.history]
    assert losses[-1] < 0.7 * losses[0]
