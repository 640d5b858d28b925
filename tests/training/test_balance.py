import math

import pytest
import torch
from torch import nn

from kdengine import Distiller, Engine, hookimpl
from kdengine.networks.models import ModelSource
from kdengine.plugins.registry import Registry
from kdengine.training.gradients import backward_clipped, clip_share


@pytest.mark.parametrize("epoch", [0, 1, 5, 40])
def test_the_share_is_the_sigmoid_of_the_epoch(epoch):
    assert clip_share(epoch) == pytest.approx(1 / (1 + math.exp(-epoch)), rel=1e-6)


def gradients(weights, free, clipped, share):
    parameters = [nn.Parameter(torch.tensor(values)) for values in weights]
    losses = []
    for given in (free, clipped):
        products = [(p * torch.tensor(g)).sum() for p, g in zip(parameters, given, strict=True) if g]
        losses.append(torch.stack(products).sum())
    backward_clipped(lambda loss, **kwargs: loss.backward(**kwargs), *losses, parameters, share)
    return [p.grad.tolist() for p in parameters]


def test_a_longer_gradient_is_shortened_tensor_by_tensor_and_a_shorter_one_is_not():
    zero = [0.0, 0.0]
    found = gradients([zero, zero], free=[[3.0, 4.0], [0.0, 1.0]], clipped=[[0.0, 50.0], [0.1, 0.0]], share=0.5)
    assert found[0] == pytest.approx([3.0, 4.0 + 2.5])  # norm 50 cut to 0.5 * 5
    assert found[1] == pytest.approx([0.1, 1.0])


def test_what_only_one_side_reaches_keeps_its_gradient():
    zero = [0.0, 0.0]
    found = gradients(
        [zero, zero, zero], free=[[1.0, 0.0], None, [1.0, 1.0]], clipped=[None, [30.0, 40.0], [0.0, 0.0]], share=0.5
    )
    assert found == [[1.0, 0.0], [30.0, 40.0], [1.0, 1.0]]


def test_a_vanished_gradient_of_the_task_silences_the_method_there():
    assert gradients([[0.0]], free=[[0.0]], clipped=[[5.0]], share=1.0) == [[0.0]]


class Loud(Distiller):
    """A term far larger than the task, through a connector."""

    name = "loud"
    clips_to_task = True

    def build(self, pair):
        self.change = nn.Linear(pair.num_classes, pair.num_classes)

    def forward(self, step):
        return {"loud": 1e4 * (self.change(step.student.logits) - step.teacher.logits).square().mean()}


class BothGradients:
    """Takes the gradients of task and method apart, just before the run takes its step with them."""

    @hookimpl
    def kdengine_before_fit(self, run):
        self.lane = run.lane
        self.step = self.lane.step
        self.lane.step = self.look_and_step

    def look_and_step(self, batch, traces):
        module = self.lane.module
        parameters, state = list(module.parameters()), {key: value.clone() for key, value in module.state_dict().items()}
        terms, _ = module(*self.lane.inputs(batch, traces))
        self.task, self.loud = (
            torch.autograd.grad(terms[name], parameters, retain_graph=True, allow_unused=True) for name in ("task", "loud.loud")
        )
        module.load_state_dict(state)
        self.before = [value.detach().clone() for value in parameters]
        self.step(batch, traces)
        self.after = [value.detach().clone() for value in parameters]


def test_a_run_clips_the_method_to_the_task_by_the_norms_of_every_tensor(tmp_path):
    plain = {"schedule": "constant", "momentum": 0.0, "nesterov": False, "weight_decay": 0.0, "augment": "none"}
    settings = {"epochs": 1, "batch_size": 16, "lr": 0.1, "precision": "fp32", "device": "cpu", **plain}
    networks = [ModelSource(name, {"num_classes": 10}, (3, 32, 32), Registry()).create(1) for name in ("resnet14", "resnet8")]
    seen = BothGradients()
    data, out = "digits@train=16@test=16", tmp_path / "run"
    Engine(*networks, [Loud()], data, out=out, observers=[seen], **settings).fit()
    clipped = 0
    for before, task, loud, after in zip(seen.before, seen.task, seen.loud, seen.after, strict=True):
        step = loud if task is None else task
        if task is not None and loud is not None:
            factor = min(1.0, 0.5 * float(task.norm()) / float(loud.norm()))
            clipped += factor < 1
            step = task + factor * loud
        assert torch.allclose(before - 0.1 * step, after, rtol=1e-4, atol=1e-6)
    assert clipped > 10
