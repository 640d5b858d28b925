import math
from typing import ClassVar

import pytest
import torch
from kdplugin_pkt import PKT, probabilities, transfer_loss

from kdengine import SettingsError, TapError
from kdengine.testing import DistillerContract, built, make_step

SHAPES = [((2, 3), (2, 3)), ((3, 4), (3, 9)), ((5, 6), (5, 2)), ((6, 8), (6, 5))]


class TestContract(DistillerContract):
    method = "pkt"
    at_equality: ClassVar = {"probability": 0.0}


def table(x):
    """p(j | i) of all pairs, written out."""
    rows = []
    for a in x:
        row = [(float(a @ b) / math.sqrt(float(a @ a) * float(b @ b)) + 1) / 2 for b in x]
        rows.append([value / sum(row) for value in row])
    return rows


def loss_of(student, teacher):
    s, t = table(student), table(teacher)
    count = len(student)
    places = [(i, j) for i in range(count) for j in range(count)]
    return sum(t[i][j] * math.log((t[i][j] + 1e-7) / (s[i][j] + 1e-7)) for i, j in places) / count**2


def arrays(*tensors):
    return [tensor.detach().double().numpy() for tensor in tensors]


def step_of(student, teacher):
    return make_step({"embedding": student}, {"embedding": teacher})


@pytest.mark.parametrize("shapes", SHAPES)
def test_loss_and_gradient_are_those_of_the_formula(shapes, leaf, slope, agree, gradient):
    student, teacher = leaf(*shapes[0], seed=1), leaf(*shapes[1], seed=2).detach()
    s, t = arrays(student, teacher)
    loss = PKT()(step_of(student, teacher))["probability"]
    agree(loss, 30000 * loss_of(s, t))
    agree(gradient(loss, student), slope(lambda moved: 30000 * loss_of(moved, t), s))


def test_every_row_is_a_distribution(leaf):
    rows = probabilities(leaf(7, 5).detach())
    assert rows.shape == (7, 7)
    assert rows.sum(1).tolist() == pytest.approx([1.0] * 7, rel=1e-5)


def test_the_weight_is_an_option_and_the_preset_zoo_has_a_third_of_it(leaf, agree):
    student, teacher = leaf(4, 3, seed=1), leaf(4, 5, seed=2).detach()
    expected = loss_of(*arrays(student, teacher))
    agree(PKT(beta=2.0)(step_of(student, teacher))["probability"], 2 * expected)
    agree(PKT(preset="zoo")(step_of(student, teacher))["probability"], 10000 * expected)


def test_maps_and_tokens_are_averaged_and_several_taps_summed(leaf, agree):
    maps, tokens = leaf(4, 3, 2, 5, seed=1), leaf(4, 7, 6, seed=2).detach()
    student, teacher = leaf(4, 2, seed=3), leaf(4, 2, seed=4).detach()
    (m, n), (s, t) = arrays(maps, tokens), arrays(student, teacher)
    loss = PKT()(make_step({"stage2": maps, "embedding": student}, {"stage2": tokens, "embedding": teacher}))["probability"]
    agree(loss, 30000 * (loss_of(m.mean((2, 3)), n.mean(1)) + loss_of(s, t)))


def test_the_length_of_an_embedding_does_not_matter(leaf):
    student, teacher = leaf(5, 4, seed=1).detach(), leaf(5, 4, seed=2).detach()
    lengths = torch.tensor([[1e-4], [1.0], [1e4], [3.0], [7.0]])
    assert float(transfer_loss(lengths * student, teacher)) == pytest.approx(float(transfer_loss(student, teacher)), rel=1e-4)


def test_a_batch_of_one_costs_nothing_and_gives_gradients_of_zero(leaf, gradient):
    student = leaf(1, 4)
    loss = PKT()(step_of(student, leaf(1, 4, seed=1).detach()))["probability"]
    assert loss.item() == 0
    assert gradient(loss, student).abs().max() < 1e-6


def test_opposite_equal_huge_and_zero_embeddings_give_finite_gradients(leaf, gradient):
    rows = [[1.0, 2.0], [-1.0, -2.0], [1.0, 2.0], [1e18, 1e18], [0.0, 0.0]]
    student = torch.tensor(rows, requires_grad=True)
    found = gradient(PKT()(step_of(student, leaf(5, 3).detach()))["probability"], student)
    assert torch.isfinite(found).all()
    assert found[4].abs().max() == 0
    assert found[:3].abs().max() < 1e4


def test_the_task_keeps_its_full_weight_and_there_is_no_phase_of_its_own():
    assert PKT().task_weight == 1
    assert list(PKT().phases()) == []


def test_a_negative_weight_is_refused():
    with pytest.raises(SettingsError, match="greater than or equal to 0"):
        PKT(beta=-1.0)


def test_taps_of_five_axes_are_refused(leaf):
    step = step_of(leaf(2, 3, 4, 5, 5), leaf(2, 3, 4, 5, 5))
    with pytest.raises(TapError, match=r"'embedding' the student has \[2, 3, 4, 5, 5\]"):
        built(PKT(), step)


def test_a_run_records_the_probabilities_of_the_pooled_features(one_step):
    (terms,), student, teacher, _ = one_step(["pkt"])
    assert terms["pkt.probability"] == pytest.approx(30000 * loss_of(student["embedding"], teacher["embedding"]), rel=1e-2)
