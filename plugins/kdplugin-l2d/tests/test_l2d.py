from typing import ClassVar

import numpy as np
import pytest
import torch
from kdplugin_l2d import L2D, LabelWise, class_loss, instance_loss, label_loss, label_rows
from torch import nn

from kdengine import Data, KDError, ModelError, SettingsError, Split
from kdengine.testing import DistillerContract
from kdengine.testing.bench import Bench
from kdengine.testing.networks import tiny_pair


class TestContract(DistillerContract):
    method = "l2d"
    at_equality: ClassVar = {"logits": 0.0, "classes": 0.0, "instances": 0.0}


def array(tensor):
    return tensor.detach().double().numpy()


def huber(x):
    return x**2 / 2 if abs(x) < 1 else abs(x) - 0.5


def structure(ours, theirs):
    """Of a group of embeddings: 1/n sum over i, j of h of the difference of the distances, each scaled by its mean."""
    n = len(ours)
    if n < 2:
        return 0.0
    scaled = []
    for vectors in (ours, theirs):
        apart = np.array([[np.linalg.norm(a - b) for b in vectors] for a in vectors])
        scaled.append(apart / (apart.sum() / (n * (n - 1))))
    return sum(huber(scaled[0][i, j] - scaled[1][i, j]) for i, j in np.ndindex(n, n)) / n


def label_wise(features, rows):
    """e_ik, [B, K, D]."""
    return np.array([[f * w for w in rows] for f in features])


def class_aware(s, t, y):
    return np.mean([structure(s[y[:, k] == 1, k], t[y[:, k] == 1, k]) for k in range(y.shape[1])])


def instance_aware(s, t, y):
    return np.mean([structure(s[i, y[i] == 1], t[i, y[i] == 1]) for i in range(len(y))])


LABELS = {
    "some": [[1, 0, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 1]],
    "all": [[1, 1, 1]] * 4,
    "two": [[1, 1], [1, 1]],
}


@pytest.mark.parametrize("labels", list(LABELS))
@pytest.mark.parametrize(("loss", "reference"), [(class_loss, class_aware), (instance_loss, instance_aware)])
def test_structures_are_those_of_all_label_wise_embeddings(labels, loss, reference, leaf, slope, agree, gradient):
    y = torch.tensor(LABELS[labels])
    count, width = y.shape
    # embeddings that differ much in scale, so that both branches of Huber's loss are taken
    s, rows = leaf(count, 3), leaf(width, 3, seed=1)
    other, others = (3 * leaf(count, 6, seed=2)).exp().detach(), leaf(width, 6, seed=3).detach()
    theirs = label_wise(array(other), array(others))
    found = loss(LabelWise(s, rows), LabelWise(other, others), y.bool())
    if labels == "two":  # a single distance is its own mean
        assert found.item() == pytest.approx(0, abs=1e-6)
        return

    def of_features(moved):
        return reference(label_wise(moved, array(rows)), theirs, y.numpy())

    def of_rows(moved):
        return reference(label_wise(array(s), moved), theirs, y.numpy())

    agree(found, of_features(array(s)))
    agree(torch.autograd.grad(found, s, retain_graph=True)[0], slope(of_features, array(s)), relative=3e-5)
    agree(gradient(found, rows), slope(of_rows, array(rows)), relative=3e-5)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (4, 20)])
def test_logits_are_compared_label_by_label(shape, leaf, slope, agree, gradient):
    s, t = leaf(*shape), 3 * leaf(*shape, seed=1).detach()

    def formula(moved):
        q, p = (1 / (1 + np.exp(-z)) for z in (moved, array(t)))
        return np.mean(p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)))

    loss = label_loss(s, t)
    agree(loss, formula(array(s)))
    agree(gradient(loss, s), slope(formula, array(s)), relative=2e-5)


def test_extreme_logits_and_embeddings_that_coincide_stay_finite(leaf, gradient):
    s = leaf(2, 3)
    for scale in (0.0, 1e4):
        assert torch.isfinite(gradient(label_loss(1e4 * s, -scale * s.detach()), s)).all()
    y = torch.ones(4, 3, dtype=torch.bool)
    for features, rows in ((torch.zeros(4, 5), torch.zeros(3, 5)), (torch.ones(4, 5), torch.ones(3, 5))):
        side = LabelWise(features.requires_grad_(), rows.requires_grad_())
        other = LabelWise(leaf(4, 6).detach(), leaf(3, 6).detach())
        loss = class_loss(side, other, y) + instance_loss(side, other, y)
        assert torch.isfinite(loss)
        for slope in torch.autograd.grad(loss, (side.features_BD, side.rows_KD)):
            assert torch.isfinite(slope).all()


def test_the_scale_of_embeddings_is_of_no_account(leaf, agree):
    y = torch.tensor(LABELS["some"]).bool()
    side, other = LabelWise(leaf(5, 3), leaf(4, 3, seed=1)), LabelWise(leaf(5, 3, seed=2), leaf(4, 3, seed=3))
    twice = LabelWise(100 * side.features_BD, side.rows_KD)
    for loss in (class_loss, instance_loss):
        agree(loss(twice, other, y), array(loss(side, other, y)))


@pytest.mark.parametrize("classifier", [nn.Linear(4, 3), nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3)).eval()])
def test_the_rows_of_a_linear_classifier_are_its_weights(classifier, leaf):
    rows, bias = label_rows(classifier, 4, leaf(1, 4))
    x = leaf(6, 4).detach()
    assert torch.allclose(x @ rows.T + bias, classifier(x), atol=1e-5)
    (rows.sum() + bias.sum()).backward()
    assert all(value.grad is not None for value in classifier.parameters())


def test_a_classifier_that_is_not_linear_is_refused_with_what_works():
    teacher, student = tiny_pair()
    student.fc = nn.Sequential(nn.BatchNorm1d(16), nn.Linear(16, 10))
    student.__class__ = type("Normalised", (type(student),), {"get_classifier": lambda self: self.fc})
    bench = Bench("l2d", (teacher, student))
    with pytest.raises(ModelError, match=r"The student's classifier is not linear.*l2d\.classes=0"):
        bench.step(bench.batch(8))
    Bench("l2d", (teacher, student), {"classes": 0, "instances": 0}).step(bench.batch(8))


def test_terms_have_their_weights_and_shares_of_one_half_count():
    plain, weighted = (Bench("l2d", tiny_pair(), options) for options in ({}, {"logits": 1, "classes": 2, "instances": 0}))
    batch = plain.batch(6)
    terms, others = ({name: float(value.detach()) for name, value in bench.terms(batch).items()} for bench in (plain, weighted))
    assert set(terms) == {"task", "l2d.logits", "l2d.classes", "l2d.instances"}
    assert set(others) == {"task", "l2d.logits", "l2d.classes"}
    assert terms["l2d.logits"] * 64 / 10 == pytest.approx(others["l2d.logits"], rel=1e-5)
    assert terms["l2d.classes"] * 64 / 100 == pytest.approx(others["l2d.classes"] / 2, rel=1e-5)
    batch.y.copy_(torch.where(batch.y > 0, 0.5, 0.49))
    assert plain.terms(batch)["l2d.instances"].item() == terms["l2d.instances"] > 0


@pytest.mark.parametrize(
    ("options", "taps"),
    [({"logits": 0}, ["embedding"]), ({"classes": 0, "instances": 0}, ["logits"]), ({"classes": 0}, ["logits", "embedding"])],
)
def test_a_term_without_weight_reads_nothing(options, taps):
    assert L2D(**options).taps_in("joint") == taps


@pytest.mark.parametrize("options", [{"logits": 0, "classes": 0, "instances": 0}, {"taps": ("stage1",)}, {"classes": -1}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(SettingsError, match=next(iter(options))):
        L2D(**options)


def test_data_with_one_class_for_each_image_is_refused():
    with pytest.raises(KDError, match="l2d is defined for labels"):
        Bench("l2d", tiny_pair(), task="classification")


def test_a_run_on_images_with_several_labels(distil, leaf):
    images = (40 * leaf(48, 3, 16, 16) + 128).clamp(0, 255).detach().byte()
    split = Split((leaf(48, 10, seed=1) > 0).float(), images)
    data = Data("labels", tuple("0123456789"), (3, 16, 16), (), (), "none", split, split, task="multilabel")
    result = distil(["l2d"], data=data, epochs=2, train={"batch_size": 16})
    for record in result.history:
        assert set(record["terms"]) == {"task", "l2d.logits", "l2d.classes", "l2d.instances"}
        assert all(0 < value < 10 for value in record["terms"].values())
