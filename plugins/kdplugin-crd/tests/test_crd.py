from typing import ClassVar

import numpy as np
import pytest
import torch
from kdplugin_crd import CRD, Banks, Negatives, estimation, in_batch_loss
from kdplugin_crd import banks as banks_module

from kdengine import Pair, SettingsError, TapError
from kdengine.testing import DistillerContract, built, in_processes, make_step

N, D, K, TAU = 12, 5, 7, 0.3
INDEX = torch.tensor([3, 0, 9, 5])


class TestContract(DistillerContract):
    method = "crd"


class TestContractInBatch(DistillerContract):
    method = "crd"
    options: ClassVar = {"mode": "batch"}


def array(tensor):
    return tensor.detach().double().numpy()


def unit(x):
    return x / np.sqrt((x**2).sum(-1, keepdims=True))


def score(anchors, memory, places):
    """The raw scores of every anchor, one by one: [B, 1 + K]."""
    return np.array([[anchors[i] @ memory[n] / TAU for n in row] for i, row in enumerate(places)])


def nce(anchors, memory, places, z=None):
    """One direction as published: h = exp(score) / Z against noise of probability K/N."""
    raised = np.exp(score(anchors, memory, places))
    h, noise = raised / (len(memory) * raised.mean() if z is None else z), (places.shape[1] - 1) / len(memory)
    total = sum(np.log(row[0] / (row[0] + noise)) + sum(np.log(noise / (k + noise)) for k in row[1:]) for row in h)
    return -total / len(anchors)


@pytest.fixture
def bank(leaf):
    """Banks of 12 images, unit vectors of a batch on both sides, and fixed places."""

    def make(seed=0):
        torch.manual_seed(seed)
        ours, theirs = (torch.nn.functional.normalize(leaf(4, D, seed=n).detach()).requires_grad_() for n in (1, 2))
        places = torch.randint(N, (4, 1 + K))
        places[:, 0] = INDEX
        places[:, 3] = places[:, 4]  # drawn twice
        return Banks(N, D, TAU, 0.5), ours, theirs, places

    return make


def draw_of(places):
    """Gives the fixed places of the images that are asked for."""
    rows = {int(row[0]): row for row in places}
    return lambda index: torch.stack([rows[int(n)] for n in index])


@pytest.fixture(params=["product", "gather"])
def path(request, monkeypatch):
    """Both ways to the scores: one product with the whole memory, or entry by entry."""
    monkeypatch.setattr(estimation, "SPARSE", 32 if request.param == "product" else 0)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("rows", [128, 3])
def test_the_loss_of_both_directions_and_its_gradients_are_those_of_the_formula(
    rows, bank, slope, agree, gradient, monkeypatch
):
    monkeypatch.setattr(banks_module, "ROWS", rows)
    banks, ours, theirs, places = bank()
    s, t, p = array(ours), array(theirs), places.numpy()
    memories = array(banks.student_ND), array(banks.teacher_ND)
    z = [N * np.exp(score(anchors, memory, p)).mean() for anchors, memory in ((s, memories[1]), (t, memories[0]))]
    loss = banks(ours, theirs, INDEX, draw_of(places))
    agree(loss, nce(s, memories[1], p) + nce(t, memories[0], p))
    agree(banks.log_z, np.log(z))
    slopes = torch.autograd.grad(loss, [ours, theirs])
    agree(slopes[0], slope(lambda moved: nce(moved, memories[1], p, z[0]), s))
    agree(slopes[1], slope(lambda moved: nce(moved, memories[0], p, z[1]), t))


def test_the_memories_take_up_the_batch_exactly_and_nothing_else(bank, agree):
    banks, ours, theirs, places = bank()
    before = banks.student_ND.clone(), banks.teacher_ND.clone()
    banks(ours, theirs, INDEX, draw_of(places))
    untouched = [n for n in range(N) if n not in INDEX]
    for old, memory, seen in zip(before, (banks.student_ND, banks.teacher_ND), (ours, theirs), strict=True):
        agree(memory[INDEX], unit(0.5 * array(old)[INDEX] + 0.5 * array(seen)), relative=1e-6)
        assert torch.equal(memory[untouched], old[untouched])


def test_the_gradient_is_that_of_the_memory_before_the_batch(bank, slope, agree, gradient):
    banks, ours, theirs, places = bank()
    for _ in range(2):
        old = array(banks.teacher_ND), array(banks.student_ND)
        loss = banks(ours, theirs, INDEX, draw_of(places))
    z = np.exp(array(banks.log_z))
    expected = slope(lambda moved: nce(moved, old[0], places.numpy(), z[0]), array(ours))
    agree(gradient(loss, ours), expected)


def test_z_is_that_of_the_first_batch_and_survives_a_restart(bank):
    banks, ours, theirs, places = bank()
    banks(ours, theirs, INDEX, draw_of(places))
    first = banks.log_z.clone()
    banks(theirs.detach(), ours.detach(), INDEX, draw_of(places))
    resumed = bank(seed=5)[0]
    resumed.load_state_dict(banks.state_dict())
    resumed(theirs.detach(), ours.detach(), INDEX, draw_of(places))
    assert torch.equal(banks.log_z, first)
    assert torch.equal(resumed.log_z, first)


def test_memories_and_z_are_saved_and_what_follows_from_the_data_is_not(leaf):
    step = make_step({"embedding": leaf(2, 3)}, {"embedding": leaf(2, 4)})
    saved = {name: tuple(value.shape) for name, value in built(CRD(), step, num_samples=20).named_buffers()}
    assert saved["banks.0.student_ND"] == saved["banks.0.teacher_ND"] == (20, 128)
    kept = [name for name in built(CRD(), step).state_dict() if not name.startswith("embeddings")]
    assert kept == ["banks.0.student_ND", "banks.0.teacher_ND", "banks.0.log_z"]


def test_extreme_scores_give_finite_values_and_gradients(bank, gradient):
    banks, ours, theirs, places = bank()
    banks.temperature = 1e-4
    loss = banks(ours, theirs, INDEX, draw_of(places))
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient(loss, ours)).all()


def test_negatives_come_from_all_images_of_other_classes_evenly_and_repeat():
    labels = torch.tensor([2, 0, 2, 7, 0, 2, 7])
    torch.manual_seed(0)
    index = torch.tensor([0, 1, 3, 5])
    places = Negatives(7, labels)(index, 20_000)
    assert torch.equal(places[:, 0], index)
    for image, row in zip(index.tolist(), places[:, 1:], strict=True):
        counts = torch.bincount(row, minlength=7)
        others = labels != labels[image]
        assert counts[~others].sum() == 0
        assert counts[others] == pytest.approx(20_000 / int(others.sum()), rel=0.1)


def test_without_labels_an_image_is_no_negative_of_itself_alone():
    places = Negatives(5)(torch.tensor([0, 4]), 500)[:, 1:]
    assert [sorted(set(row.tolist())) for row in places] == [[1, 2, 3, 4], [0, 1, 2, 3]]


def test_where_all_images_have_one_class_it_is_not_left_out():
    places = Negatives(3, torch.full((3,), 4))(torch.tensor([1]), 200)[:, 1:]
    assert set(places.flatten().tolist()) == {0, 1, 2}


def test_the_labels_of_the_data_choose_the_negatives(leaf):
    step = make_step({"embedding": leaf(2, 3)}, {"embedding": leaf(2, 4)})
    for labels, expected in [(torch.tensor([0, 0, 1]), {2}), (None, {1, 2}), (torch.eye(3), {1, 2})]:
        method = CRD(negatives=50)
        method.build(Pair(step.student, step.teacher, 2, 3, str, step.names, labels=labels))
        assert set(method._draw(torch.tensor([0]))[0, 1:].tolist()) == expected


def info_nce(s, t, labels=None):
    """InfoNCE in both directions, written out."""
    total = 0.0
    for a, b in ((s, t), (t, s)):
        for i in range(len(a)):
            rivals = [j for j in range(len(b)) if j == i or labels is None or labels[j] != labels[i]]
            total -= a[i] @ b[i] / TAU - np.log(sum(np.exp(a[i] @ b[j] / TAU) for j in rivals))
    return total / len(s)


@pytest.mark.parametrize("labels", [None, [0, 1, 0, 2]])
def test_in_the_batch_the_others_are_negatives_unless_they_share_the_class(labels, bank, slope, agree, gradient):
    _, ours, theirs, _ = bank()
    loss = in_batch_loss(ours, theirs, TAU, None if labels is None else torch.tensor(labels))
    agree(loss, info_nce(array(ours), array(theirs), labels))
    agree(gradient(loss, ours), slope(lambda moved: info_nce(moved, array(theirs), labels), array(ours)))


def test_in_the_batch_soft_targets_exclude_nothing_and_no_index_is_read(leaf, agree):
    step = make_step({"embedding": leaf(4, 3)}, {"embedding": leaf(4, 6, seed=1)}, labels=torch.full((4, 10), 0.1))
    method = built(CRD(mode="batch", temperature=TAU), step)
    assert method.needs == ()
    assert CRD().needs == ("index",)
    vectors = method.embeddings[0](*(side["embedding"] for side in (step.student, step.teacher)))
    agree(method(step)["contrast"], 0.8 * info_nce(*map(array, vectors)))


def test_a_batch_of_one_class_or_one_image_costs_nothing_in_the_batch(bank, gradient):
    _, ours, theirs, _ = bank()
    loss = in_batch_loss(ours, theirs, TAU, torch.zeros(4))
    assert loss.item() == 0
    assert gradient(loss, ours).abs().max() == 0
    assert in_batch_loss(ours[:1], theirs[:1], TAU).item() == 0


def test_features_of_any_kind_are_projected_to_unit_vectors(leaf, agree):
    student, teacher = leaf(3, 4, 2, 2), leaf(3, 5, 6, seed=1)
    embed = built(CRD(), make_step({"tap": student}, {"tap": teacher})).embeddings[0]
    vectors = embed(student, teacher)
    for vector, pooled, layer in zip(vectors, (student.mean((2, 3)), teacher.mean(1)), embed.children(), strict=True):
        agree(vector, unit(array(pooled) @ array(layer.weight).T + array(layer.bias)), relative=2e-5)


@pytest.mark.parametrize(("preset", "beta", "mode"), [("repdistiller", 0.8, "memory"), ("in-batch", 0.8, "batch")])
def test_presets(preset, beta, mode):
    options = CRD(preset=preset).options
    assert (options.beta, options.mode, options.negatives, options.temperature) == (beta, mode, 16384, 0.07)


def test_memories_of_two_processes_take_up_the_images_of_both_as_one_with_the_whole_batch_does(bank):
    made = [bank() for _ in range(2)]  # here, as threads that seed the one generator disturb each other

    def one(rank, processes):
        banks, ours, theirs, places = made[rank]
        for shift in range(2):
            mine = slice(rank, None, 2)
            banks(*(x.detach()[mine].roll(shift, 1) for x in (ours, theirs)), INDEX[mine], draw_of(places), processes)
        return banks

    alone, ours, theirs, places = bank()
    for shift in range(2):
        alone(*(x.detach().roll(shift, 1) for x in (ours, theirs)), INDEX, draw_of(places))
    for mine in in_processes(2, one):
        assert torch.equal(mine.student_ND, alone.student_ND)
        assert torch.equal(mine.teacher_ND, alone.teacher_ND)
        assert torch.allclose(mine.log_z, alone.log_z, rtol=1e-6)


@pytest.mark.parametrize("option", [{"negatives": 0}, {"momentum": 1}, {"temperature": 0}, {"mode": "queue"}])
def test_options_out_of_range_are_refused(option):
    with pytest.raises(SettingsError, match=next(iter(option))):
        CRD(**option)


def test_taps_of_five_axes_are_refused(leaf):
    step = make_step(student={"clip": leaf(2, 3, 4, 5, 5)}, teacher={"clip": leaf(2, 3, 4, 5, 5)})
    with pytest.raises(TapError, match="clip"):
        built(CRD(), step)


@pytest.mark.slow
def test_a_run_learns_to_tell_its_images_apart(distil):
    result = distil(["crd"], "digits@train=128@test=64", epochs=3, train={"batch_size": 16, "lr": 0.05}, crd={"negatives": 256})
    losses = [record["terms"]["crd.contrast"] for record in result.history]
    assert losses[-1] < losses[0]
