from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from kdplugin_ofa_kd import OFAKD, ofa_loss
from kdplugin_ofa_kd.exits import chosen, exit_heads
from torch import nn

from kdengine import Pair, SettingsError, TapError, Trace
from kdengine.testing import DistillerContract, make_step, tiny_pair, vit_pair
from kdengine.testing.bench import Bench, random_batch

SHAPES = [(1, 2), (3, 5), (2, 20)]


class TestContract(DistillerContract):
    method = "ofa-kd"


class TestContractOnATransformer(DistillerContract):
    """A CNN teaches a vision transformer, whose blocks all have one size."""

    method = "ofa-kd"
    options: ClassVar = {"preset": "imagenet"}

    def bench(self, pair=None, **settings):
        cnn, vit = tiny_pair()[0], vit_pair()[0]
        return super().bench(pair if pair is not None and pair[0] is pair[1] else (cnn, vit), **settings)


def softmax(logits, temperature=1.0):
    raised = np.exp((logits - logits.max(1, keepdims=True)) / temperature)
    return raised / raised.sum(1, keepdims=True)


def formula(student, teacher, y, eps, temperature=1.0):
    """The loss, class by class."""
    q, p = softmax(student, temperature), softmax(teacher, temperature)
    total = 0.0
    for b, k in np.ndindex(p.shape):
        weight = (1 + p[b, k]) ** eps - 1 if k == y[b] else p[b, k] ** eps
        total -= weight * np.log(q[b, k]) / len(p)
    return total


def step_of(features, student, teacher, y):
    """A step in which taps of the student alone are read."""
    step = make_step(student_logits=student, teacher_logits=teacher, labels=y)
    return replace(step, student=Trace(features, student), student_taps=tuple(features))


def ofa(step, width=None, **options):
    """The method, with heads for the features of a step."""
    method, meta = OFAKD(width=width or 6, **options), {name: step.student[name].detach().to("meta") for name in step.student}
    classes = step.teacher.logits.shape[1]
    names = tuple(step.student_taps)
    method.build(Pair(Trace(meta), Trace({}), classes, 8, lambda spec: nn.Identity(), student_taps=names))
    return method


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("eps", "temperature"), [(1.0, 1.0), (1.5, 1.0), (0.7, 3.0)])
def test_the_loss_and_its_gradient_are_those_of_the_formula(shape, eps, temperature, leaf, slope, agree, gradient):
    student, teacher = leaf(*shape, seed=1, dtype=torch.float64), (3 * leaf(*shape, seed=2, dtype=torch.float64)).detach()
    y, s, t = torch.arange(shape[0]) % shape[1], student.detach().numpy(), teacher.numpy()
    loss = ofa_loss(student, teacher, y, eps, temperature)
    agree(loss, formula(s, t, y, eps, temperature))
    agree(gradient(loss, student), slope(lambda moved: formula(moved, t, y, eps, temperature), s))
    agree(ofa_loss(student.float(), teacher.float(), y, eps, temperature), formula(s, t, y, eps, temperature))


def test_at_eps_one_it_is_the_cross_entropy_with_the_teachers_probabilities(leaf, agree):
    student, teacher = leaf(5, 7, seed=1), leaf(5, 7, seed=2).detach()
    expected = torch.nn.functional.cross_entropy(student, teacher.softmax(1))
    agree(ofa_loss(student, teacher, torch.arange(5), 1.0), expected.detach().double())


def test_a_target_that_the_teacher_is_sure_is_wrong_keeps_its_weight(gradient):
    """(1 + 1e-9)^eps - 1 is zero in float32, if it is computed as it is written."""
    teacher = torch.tensor([[20.7, 0.0]])
    pushed = [
        gradient(ofa_loss(z := torch.zeros(1, 2, requires_grad=True), teacher, torch.tensor([1]), eps), z) for eps in (1.0, 1.5)
    ]
    p = float(teacher.double().softmax(1)[0, 1])
    for eps, slopes in zip((1.0, 1.5), pushed, strict=True):
        whole = (1 - p) ** eps + (1 + p) ** eps - 1
        assert slopes[0, 1].item() == pytest.approx(0.5 * whole - ((1 + p) ** eps - 1), rel=1e-6)
    weights = -torch.log_softmax(torch.tensor([[0.0, -1e9]]), 1)
    assert ofa_loss(torch.tensor([[0.0, -1e9]]), teacher, torch.tensor([1]), 1.0).item() == pytest.approx(
        p * weights[0, 1].item(), rel=1e-3
    )


def test_huge_and_equal_logits_have_finite_gradients(gradient):
    for value in (0.0, 500.0):
        student = torch.tensor([[value, -value, 0.0]], requires_grad=True)
        loss = ofa_loss(student, torch.tensor([[-value, value, 0.0]]), torch.tensor([2]), 1.5)
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient(loss, student)).all()


def test_of_mixed_targets_the_larger_share_is_the_label(leaf):
    student, teacher = leaf(2, 3, seed=1), leaf(2, 3, seed=2)
    shares = torch.tensor([[0.3, 0.7, 0.0], [0.0, 0.1, 0.9]])
    assert torch.equal(ofa_loss(student, teacher, shares, 1.5), ofa_loss(student, teacher, torch.tensor([1, 2]), 1.5))


def test_the_terms_are_those_of_the_logits_and_the_sum_of_those_of_the_exits(leaf, agree, gradient):
    features = {"stage1": leaf(4, 3, 8, 8, seed=1), "stage2": leaf(4, 5, 4, 4, seed=2)}
    student, teacher, y = leaf(4, 6, seed=3), leaf(4, 6, seed=4).detach(), torch.arange(4)
    step = step_of(features, student, teacher, y)
    method = ofa(step, eps=(1.0, 1.5, 2.0), kd=0.5, ofa=3.0, task=0.25).eval()
    terms = method(step)
    s, t = student.detach().double().numpy(), teacher.double().numpy()
    agree(terms["kd"], 0.5 * formula(s, t, y, 2.0))
    exits = [head(features[name]).detach().double().numpy() for head, name in zip(method.heads, features, strict=True)]
    agree(terms["ofa"], 3 * (formula(exits[0], t, y, 1.0) + formula(exits[1], t, y, 1.5)))
    assert all(gradient(method(step)["ofa"], tensor).abs().max() > 0 for tensor in features.values())
    assert method.task_weight == 0.25


def test_the_last_stage_exits_by_a_pointwise_convolution_a_mean_and_a_classifier(leaf, agree):
    maps = leaf(2, 3, 4, 4)
    (head,) = exit_heads([maps.shape], 5, 7)
    mix, classify = (
        (tensor.detach().double().numpy() for tensor in part.parameters()) for part in (head.body, head.classifier)
    )
    (w, b), (v, c) = mix, classify
    expected = np.einsum("bchw,dc->bd", maps.detach().double().numpy(), w[:, :, 0, 0]) / 16 + b
    agree(head(maps), expected @ v.T + c)


@pytest.mark.parametrize(
    ("shapes", "kinds", "depths"),
    [
        ([(2, 4, 16, 16), (2, 8, 8, 8), (2, 16, 4, 4)], "MapExit", [2, 1, 0]),
        ([(2, 4, 14, 14), (2, 8, 7, 7)], "MapExit", [1, 0]),
        ([(2, 16, 4, 4), (2, 16, 4, 4), (2, 16, 4, 4)], "TokenExit", [2, 1, 1]),
        ([(2, 17, 12), (2, 17, 12)], "TokenExit", [1, 1]),
        ([(2, 12, 4, 4)], "MapExit", [0]),
        ([(2, 12)], "Linear", None),
    ],
)
def test_the_head_follows_from_the_sizes(shapes, kinds, depths):
    heads = exit_heads(shapes, 10, 7)
    assert {type(head).__name__ for head in heads} == {kinds}
    if depths is not None:
        found = [0 if isinstance(head.body, nn.Conv2d) else len(head.body) for head in heads]
        assert found == depths
    for head, shape in zip(heads, shapes, strict=True):
        assert head(torch.randn(shape)).shape == (2, 7)


def test_a_batch_of_one_passes_maps_of_a_single_position():
    heads = exit_heads([(2, 4, 2, 2), (2, 8, 1, 1)], 8, 3).train()
    assert torch.isfinite(heads[0](torch.randn(1, 4, 2, 2))).all()


def test_of_many_blocks_a_few_are_taken_evenly_with_the_last():
    blocks = [f"stage{number}" for number in range(1, 13)]
    assert chosen(blocks, 4) == ["stage3", "stage6", "stage9", "stage12"]
    assert chosen(blocks[:3], 4) == blocks[:3]
    assert chosen(blocks, 1) == ["stage12"]
    assert all(len(set(chosen(blocks[:n], most))) == min(n, most) for n in range(1, 12) for most in range(1, 12))


@pytest.mark.parametrize(("preset", "eps"), [("cifar", 1.0), ("imagenet", 1.5)])
def test_the_presets_are_the_published_exponents(preset, eps):
    assert OFAKD(preset=preset).options.eps == eps


def test_another_number_of_exponents_than_of_exits_is_refused(leaf):
    step = step_of({"stage1": leaf(2, 3, 4, 4)}, leaf(2, 5), leaf(2, 5), torch.zeros(2).long())
    with pytest.raises(SettingsError, match=r"has 3 values, but there are 1 exits \(stage1\)"):
        ofa(step, eps=(1.0, 1.0, 1.0))
    with pytest.raises(SettingsError, match="greater than 0"):
        OFAKD(eps=0.0)


def test_the_students_exits_are_an_option_and_may_be_tokens():
    pair = tiny_pair()[0], vit_pair()[0]
    bench = Bench("ofa-kd", pair, {"exits": ("net.blocks.1", "net.blocks.3", "embedding")})
    (method,) = bench.lane.module.methods.values()
    assert [type(head).__name__ for head in method.heads] == ["TokenExit", "TokenExit", "Linear"]
    bench.lane.begin_epoch()
    assert all(torch.isfinite(value) for value in bench.terms(random_batch(4)).values())
    with pytest.raises(TapError, match="nowhere"):
        Bench("ofa-kd", pair, {"exits": ("nowhere",)})


def test_the_widest_of_student_and_teacher_is_the_width_of_the_exits():
    for pair, width in ((tiny_pair(), 32), ((tiny_pair()[1], tiny_pair()[0]), 32)):
        (method,) = Bench("ofa-kd", pair).lane.module.methods.values()
        assert [head.classifier.in_features for head in method.heads] == [width] * 3


@pytest.mark.slow
def test_a_run_teaches_the_exits_and_the_student(distil):
    result = distil(["ofa-kd"], "digits@train=128@test=64", epochs=3, train={"batch_size": 16, "lr": 0.05})
    first, last = (result.history[n]["terms"] for n in (0, -1))
    assert set(first) == {"task", "ofa-kd.kd", "ofa-kd.ofa"}
    assert last["ofa-kd.ofa"] < first["ofa-kd.ofa"]
