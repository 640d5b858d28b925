from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from kdplugin_cat_kd import CATKD, activation_loss, activation_maps
from torch import nn

from kdengine import Head, ModelError, Pair, SettingsError, TapError
from kdengine.methods.head import classify
from kdengine.testing import DistillerContract, built, make_step, tiny_pair
from kdengine.testing.bench import Bench


class TestContract(DistillerContract):
    method = "cat-kd"
    at_equality: ClassVar = {"activation": 0.0}


class TestContractNormalised(DistillerContract):
    method = "cat-kd"
    options: ClassVar = {"preset": "resnet32x4-shufflenetv1"}
    at_equality: ClassVar = {"activation": 0.0}


class Networks:
    """What a pair knows of a teacher with this classifier."""

    def __init__(self, classifier: nn.Module) -> None:
        self.classifier = classifier

    def teacher_head(self) -> Head:
        return Head(lambda: self.classifier)


def numbers(tensor):
    return tensor.detach().double().numpy()


def cells(maps, grid):
    """Mean over the boxes that divide a map evenly: [B, K, H, W] -> [B, K, *grid]."""
    out = np.zeros((*maps.shape[:2], *grid))
    rows, columns = maps.shape[2] // grid[0], maps.shape[3] // grid[1]
    for i, j in np.ndindex(*grid):
        out[:, :, i, j] = maps[:, :, i * rows : (i + 1) * rows, j * columns : (j + 1) * columns].mean((2, 3))
    return out


def activations(maps, classifier, grid):
    """The classifier at every position of the map, then the mean of each cell."""
    weight, bias = (numbers(value) for value in classifier.parameters())
    every = np.einsum("bdhw,kd->bkhw", maps, weight.reshape(len(weight), -1)) + bias[:, None, None]
    return cells(every, grid)


def distance(s, t, normalize):
    if normalize:
        s, t = (maps / np.sqrt((maps**2).sum((2, 3), keepdims=True)) for maps in (s, t))
    return ((s - t) ** 2).mean()


@pytest.fixture
def heads():
    """The student's classifier and the teacher's."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return nn.Linear(3, 4), nn.Linear(5, 4)


def step_of(student, teacher, heads, width=None):
    """A step on last maps, with the student's classifier and both embeddings."""
    ours, theirs = student.mean((2, 3)), torch.zeros(len(teacher), width or teacher.shape[1])
    step = make_step({"embedding.map": student, "embedding": ours}, {"embedding.map": teacher, "embedding": theirs})
    classifier: Callable = lambda features: classify(heads[0], features, isinstance(heads[0], nn.Conv2d))  # noqa: E731
    return replace(step, names=[("embedding.map", "embedding.map")], classifier=classifier)


def cat_kd(step, heads, **options):
    method = CATKD(**options)
    method.build(Pair(step.student, step.teacher, 4, 100, lambda spec: None, step.names, networks=Networks(heads[1])))
    return method


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(
    ("ours", "theirs", "grid", "expected"),
    [
        ((2, 3, 4, 4), (2, 5, 2, 2), 2, (2, 2)),
        ((2, 3, 4, 4), (2, 5, 8, 8), 4, (4, 4)),
        ((3, 3, 4, 2), (3, 5, 2, 6), 4, (2, 2)),  # a map with fewer rows or columns than the grid
        ((1, 3, 1, 2), (1, 5, 4, 4), 2, (1, 2)),
    ],
)
def test_the_loss_and_all_gradients_are_those_of_the_formula(
    ours, theirs, grid, expected, normalize, heads, leaf, slope, agree, gradient
):
    student, teacher = leaf(*ours, seed=1), leaf(*theirs, seed=2).detach()
    step = step_of(student, teacher, heads)
    method = cat_kd(step, heads, beta=7.0, grid=grid, normalize=normalize)
    t = activations(numbers(teacher), heads[1], expected)

    def formula(s):
        return 7 * distance(activations(s, heads[0], expected), t, normalize)

    loss = method(step)["activation"]
    agree(loss, formula(numbers(student)))
    agree(gradient(loss, student), slope(formula, numbers(student)))
    loss = method(step)["activation"]
    loss.backward()
    assert heads[0].weight.grad.abs().max() > 0  # the student's classifier learns, the teacher's does not
    assert heads[1].weight.grad is None


def test_the_mean_of_an_activation_map_is_the_logit(heads, leaf, agree):
    maps = leaf(2, 3, 4, 6)
    logits = heads[0](maps.mean((2, 3)))
    found = activation_maps(maps, lambda features: classify(heads[0], features, False), (2, 3))
    agree(found.mean((2, 3)), numbers(logits))


def test_a_classifier_that_is_a_convolution_gives_the_same(heads, leaf):
    step = step_of(leaf(2, 3, 4, 4, seed=1), leaf(2, 5, 4, 4, seed=2).detach(), heads)
    convolution = nn.Conv2d(5, 4, 1)
    with torch.no_grad():
        convolution.weight.copy_(heads[1].weight[:, :, None, None])
        convolution.bias.copy_(heads[1].bias)
    one, other = (cat_kd(step, pair)(step)["activation"].item() for pair in (heads, (heads[0], convolution)))
    assert other == pytest.approx(one, rel=1e-6)


def test_normalised_maps_that_are_zero_or_huge_give_finite_gradients(gradient):
    for value in (0.0, 1e15):
        student = torch.full((2, 4, 2, 2), value, requires_grad=True)
        loss = activation_loss(student, torch.randn(2, 4, 2, 2), normalize=True)
        assert torch.isfinite(gradient(loss, student)).all()


def test_a_map_that_no_classifier_of_its_network_takes_is_refused(heads, leaf):
    step = step_of(leaf(2, 3, 4, 4), leaf(2, 5, 4, 4), heads, width=9)
    with pytest.raises(TapError, match=r"the teacher has a map of 5 channels, and its classifier takes 9"):
        cat_kd(step, heads)
    with pytest.raises(TapError, match=r"has \[2, 64\].*maps \[B, C, H, W\]"):
        built(CATKD(), make_step({"embedding": leaf(2, 64)}, {"embedding": leaf(2, 64)}))


def test_a_teacher_whose_logits_are_more_than_its_classifier_is_refused(doubled):
    teacher, student = tiny_pair()
    with pytest.raises(ModelError, match="more than what its classifier"):
        Bench("cat-kd", (doubled(teacher).eval(), student))


def test_options_and_presets_are_those_of_the_authors():
    assert (CATKD().options.beta, CATKD().options.grid, CATKD().options.normalize, CATKD().task_weight) == (40, 2, True, 1)
    near = CATKD(preset="resnet56-resnet20").options
    assert (near.beta, near.normalize) == (0.7, False)
    far = CATKD(preset="resnet32x4-shufflenetv2").options
    assert (far.beta, far.grid, far.normalize) == (600, 4, True)
    with pytest.raises(SettingsError, match="grid"):
        CATKD(grid=0)


def test_a_run_compares_what_both_classifiers_see_in_the_last_maps(one_step, networks):
    student, teacher = networks("resnet8", "resnet20")
    (terms,), ours, theirs, _ = one_step(["cat-kd"])
    maps = [activations(shown["stage3"], network.fc, (2, 2)) for shown, network in ((ours, student), (theirs, teacher))]
    assert terms["cat-kd.activation"] == pytest.approx(40 * distance(*maps, True), rel=1e-3)
