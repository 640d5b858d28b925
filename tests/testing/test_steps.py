from dataclasses import replace

import pytest
import torch
from torch import nn

from kdengine import Distiller, SettingsError, TapError
from kdengine.testing import built, make_step


class Linear(Distiller):
    """Has a connector and a peer."""

    name = "linear"
    taps = ("embedding",)
    takes = "vectors"

    class Options(Distiller.Options):
        peer: bool = False

    def build(self, pair):
        (tap,) = pair.pairs
        self.change = nn.Linear(tap.student.shape[1], tap.teacher.shape[1])
        self.facts = (pair.num_classes, pair.num_samples, tap.rectified, tap.teacher_name)
        self.peer = pair.new_network("teacher") if self.options.peer else None

    def forward(self, step):
        return {"match": self.change(step.student["embedding"]).sum()}


def vectors(width, count=4):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(width))


def test_a_step_pairs_the_taps_of_both_sides_in_their_order():
    step = make_step({"stage1": vectors(2), "stage2": vectors(3)}, {"blocks.1": vectors(5), "blocks.3": vectors(7)})
    assert [(pair.name, pair.teacher_name, pair.student.shape[1], pair.teacher.shape[1]) for pair in step.pairs] == [
        ("stage1", "blocks.1", 2, 5),
        ("stage2", "blocks.3", 3, 7),
    ]


def test_a_step_of_logits_alone_pairs_them():
    step = make_step(student_logits=vectors(10), teacher_logits=vectors(10))
    (pair,) = step.pairs
    assert (pair.name, pair.student.shape) == ("logits", (4, 10))


def test_a_tap_called_logits_gives_the_logits():
    step = make_step({"logits": vectors(10)}, {"logits": vectors(10)})
    assert torch.equal(step.student.logits, vectors(10))
    assert torch.equal(step.pairs[0].teacher, vectors(10))


def test_everything_else_has_sensible_defaults_and_can_be_given():
    step = make_step({"embedding": vectors(2)}, {"embedding": vectors(2)})
    assert (step.y.tolist(), step.index.tolist(), len(step.x)) == ([0] * 4, [0, 1, 2, 3], 4)
    assert (step.phase, step.epoch, step.progress) == ("joint", 0, 0.0)
    x, y, index = torch.ones(4, 1, 2, 2), torch.arange(4), torch.arange(4) + 7
    step = make_step({"e": vectors(2)}, {"e": vectors(2)}, x=x, labels=y, index=index, phase="hint", epoch=3, progress=0.5)
    assert (step.x is x, step.y is y, step.index is index) == (True, True, True)
    assert step.student.input is x
    assert (step.phase, step.epoch, step.progress) == ("hint", 3, 0.5)


def test_a_step_without_positions_refuses_to_give_an_index():
    step = replace(make_step({"e": vectors(2)}, {"e": vectors(2)}), positions=None)
    assert len(step.x) == 4
    with pytest.raises(
        SettingsError, match=r"train_loader gives only \(images, labels\)\. Let its data set return .*third tensor"
    ):
        _ = step.index


def test_a_network_of_the_method_runs_on_the_images():
    step = make_step(x=torch.ones(4, 3, 2, 2))
    assert step.logits_of(nn.Flatten()).shape == (4, 12)


def test_a_step_of_nothing_or_of_unequal_sides_is_refused():
    with pytest.raises(ValueError, match="at least one tensor"):
        make_step()
    with pytest.raises(ValueError, match=r"\['a', 'b'\].*\['a'\]"):
        make_step({"a": vectors(2), "b": vectors(2)}, {"a": vectors(2)})


def test_a_method_is_built_for_the_tensors_of_a_step():
    step = make_step({"embedding": vectors(2)}, {"embedding": vectors(5)}, rectified={"embedding"})
    method = built(Linear(), step, num_samples=7)
    assert method.change.weight.shape == (5, 2)
    assert method.facts == (10, 7, True, "embedding")
    assert method(step)["match"].requires_grad


def test_the_classes_are_those_of_the_logits():
    step = make_step({"embedding": vectors(2)}, {"embedding": vectors(5)}, teacher_logits=vectors(6))
    assert built(Linear(), step).facts[0] == 6
    assert built(Linear(), step, num_classes=3).facts[0] == 3


def test_further_networks_are_made_as_the_caller_says():
    step = make_step({"embedding": vectors(2)}, {"embedding": vectors(5)})
    assert isinstance(built(Linear(peer=True), step, new_network=lambda spec: nn.Identity()).peer, nn.Identity)
    with pytest.raises(ValueError, match=r"calls new_network\('teacher'\)"):
        built(Linear(peer=True), step)


def test_tensors_that_do_not_fit_are_refused_as_in_a_run():
    with pytest.raises(TapError, match=r"vectors \[B, D\]"):
        built(Linear(), make_step({"embedding": torch.ones(2, 3, 4, 4)}, {"embedding": vectors(5, 2)}))


def test_the_task_loss_of_a_step_is_the_cross_entropy_of_its_logits_whatever_transforms_show():
    step = make_step(
        student_logits=torch.tensor([[2.0, 0.0], [0.0, 1.0]]), teacher_logits=torch.zeros(2, 2), labels=torch.tensor([0, 0])
    )
    expected = torch.nn.functional.cross_entropy(step.student.logits, torch.tensor([0, 0]))
    assert torch.equal(step.task_loss(), expected)
    assert torch.equal(step.with_logits(torch.zeros_like, torch.zeros_like).task_loss(), expected)
    with pytest.raises(SettingsError, match="no targets"):
        replace(step, task=None).task_loss()
