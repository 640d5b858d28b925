from typing import ClassVar

import numpy as np
import pytest
import torch
from kdplugin_ft import FactorTransfer, Paraphraser, factor_loss, translator

from kdengine import SettingsError
from kdengine.testing import DistillerContract, built, make_step
from kdengine.testing.bench import Bench, random_batch
from kdengine.testing.networks import tiny_pair

SHAPES = [((2, 3, 4, 4), (2, 3, 4, 4)), ((3, 2, 2, 3), (3, 2, 2, 3)), ((2, 4, 6, 6), (2, 4, 3, 3))]


class TestContract(DistillerContract):
    method = "ft"


class TestSeveralStages(DistillerContract):
    method = "ft"
    options: ClassVar = {"taps": "stages", "by_position": True}


def pooled(x, size):
    """Average pooling to a size that divides that of the map."""
    b, c, h, w = x.shape
    return x.reshape(b, c, size[0], h // size[0], size[1], w // size[1]).mean((3, 5))


def loss_of(student, teacher, by_position=False):
    size = min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3])
    total = 0.0
    for s, t in zip(pooled(student, size), pooled(teacher, size), strict=True):
        s, t = ((x**2).mean(0) if by_position else x for x in (s, t))
        total += np.abs(s / np.sqrt((s**2).sum()) - t / np.sqrt((t**2).sum())).mean()
    return total / len(student)


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("by_position", [False, True])
def test_the_loss_and_its_gradient_are_those_of_the_paper(shapes, by_position, leaf, slope, agree, gradient):
    student, teacher = leaf(*shapes[0], seed=1), leaf(*shapes[1], seed=2).detach()
    s, t = (x.detach().double().numpy() for x in (student, teacher))
    loss = factor_loss(student, teacher, by_position)
    agree(loss, loss_of(s, t, by_position))
    agree(gradient(loss, student), slope(lambda moved: loss_of(moved, t, by_position), s))


def test_equal_directions_cost_nothing_and_a_factor_of_zeros_is_no_trouble(leaf, gradient):
    student = leaf(2, 3, 2, 2)
    assert factor_loss(student, 5 * student.detach()).item() == pytest.approx(0, abs=1e-7)
    zeros = torch.zeros(2, 3, 2, 2, requires_grad=True)
    assert torch.isfinite(gradient(factor_loss(zeros, student.detach()), zeros)).all()


def test_the_terms_are_those_of_its_networks(leaf, agree):
    student, teacher = leaf(2, 3, 4, 4, seed=1), leaf(2, 6, 4, 4, seed=2).detach()
    maps = {"student": {"stage4": student}, "teacher": {"stage4": teacher}}
    method = built(FactorTransfer(beta=7.0), make_step(**maps))
    assert [layer.out_channels for layer in method.translators[0][::2]] == [3, 3, 3]
    assert [layer.out_channels for layer in method.paraphrasers[0].decoder[::2]] == [3, 6, 6]
    ours, theirs = method.translators[0](student), method.paraphrasers[0].encoder(teacher)
    agree(method(make_step(**maps))["factor"], 7 * loss_of(*(x.detach().double().numpy() for x in (ours, theirs))))


def test_a_factor_has_a_share_of_the_channels_but_at_least_one():
    maps = torch.zeros(2, 3, 4, 4)
    step = make_step(student={"a": maps}, teacher={"a": maps})
    assert built(FactorTransfer(rate=0.1), step).translators[0][-2].out_channels == 1
    assert built(FactorTransfer(rate=2.0), step).translators[0][-2].out_channels == 6


def calls(module):
    seen = []
    module.register_forward_hook(lambda *_: seen.append(1))
    return seen


def test_first_the_paraphraser_learns_while_the_student_waits_then_the_student_while_the_paraphraser_stays():
    bench = Bench("ft", tiny_pair(), {"epochs": 1})
    method = bench.lane.module.methods["ft"]
    ran = calls(bench.student)
    terms = {}
    for lane in bench.phases():
        before = {name: value.clone() for name, value in lane.module.state_dict().items()}
        terms[lane.phase.name] = set(bench.terms(random_batch(4)))
        bench.step(random_batch(4))
        after = lane.module.state_dict()
        changed = [name.split(".") for name in before if not torch.equal(before[name], after[name])]
        moved = {parts[0] if parts[0] == "student" else parts[2] for parts in changed}
        if lane.phase.name == "paraphraser":
            assert (len(ran), moved) == (0, {"paraphrasers"})
        else:
            assert moved == {"student", "translators"}
    assert terms == {"paraphraser": {"ft.reconstruction"}, "joint": {"task", "ft.factor"}}
    assert isinstance(method.paraphrasers[0], Paraphraser)


@pytest.mark.slow
def test_the_paraphraser_learns_to_reconstruct(leaf):
    torch.manual_seed(0)
    network, maps = Paraphraser(4, 2), leaf(8, 4, 4, 4).detach()
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    losses = []
    for _ in range(30):
        loss = (network(maps) - maps).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.98 * losses[0]
    assert not network.factor(maps).requires_grad


def test_the_translator_follows_the_students_width():
    assert translator(5, 2)(torch.zeros(1, 5, 3, 3)).shape == (1, 2, 3, 3)


@pytest.mark.parametrize(("option", "value"), [("rate", 0.0), ("epochs", -1), ("lr_scale", 0.0), ("beta", -1.0)])
def test_what_makes_no_sense_is_refused(option, value):
    with pytest.raises(SettingsError, match="greater than"):
        FactorTransfer(**{option: value})


def test_a_run_trains_the_paraphraser_first(distil):
    result = distil(["ft"], epochs=1, train={"batch_size": 16}, ft={"epochs": 1})
    assert [record["phase"] for record in result.history] == ["paraphraser", "joint"]
