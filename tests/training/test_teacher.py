import pytest
import torch
from torch import nn

from kdengine import Anatomy, TrainingError
from kdengine.config.settings import TrainSettings
from kdengine.testing import tiny_pair
from kdengine.training.runtime import Runtime
from kdengine.training.teacher import FrozenTeacher

IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def teacher():
    return tiny_pair()[0]


def points(model, *names):
    anatomy = Anatomy.of(model, (3, 32, 32))
    return {name: point for text in names for name, point in anatomy.resolve(text).items()}


def test_it_stops_at_the_deepest_tap_and_makes_logits_only_when_they_are_asked_for(teacher):
    calls = []
    teacher.fc.register_forward_hook(lambda *_: calls.append(1))
    teacher_query = FrozenTeacher(teacher, Runtime("cpu", "fp32"), TrainSettings(fold_teacher=False))
    wanted = points(teacher, "stage2")
    calls.clear()
    trace = teacher_query.trace(IMAGES, wanted)
    assert (calls, trace.has_logits) == ([], False)
    assert torch.equal(trace.logits, teacher(IMAGES))
    calls.clear()
    assert teacher_query.trace(IMAGES, wanted).has_logits, "after that, no forward is cut short"
    assert len(calls) == 1


def test_what_it_shows_has_no_history(teacher):
    trace = FrozenTeacher(teacher, Runtime("cpu", "fp32")).trace(IMAGES, points(teacher, "stages", "logits"))
    assert not any(trace[name].requires_grad for name in trace)


def test_a_teacher_in_training_mode_is_refused(teacher):
    teacher_query = FrozenTeacher(teacher, Runtime("cpu", "fp32"))
    teacher.stages[1].train()
    with pytest.raises(TrainingError, match="training mode"):
        teacher_query.trace(IMAGES, {})


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_input_gradients_are_those_of_the_network_in_float32(precision, teacher):
    images = IMAGES.clone()
    trace = FrozenTeacher(teacher, Runtime("cpu", precision)).trace(images, points(teacher, "logits"), input_gradients=True)
    (found,) = torch.autograd.grad(trace.logits[:, 3].sum(), trace.input)
    own = IMAGES.clone().requires_grad_()
    (expected,) = torch.autograd.grad(teacher(own)[:, 3].sum(), own)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-7)
    assert not images.requires_grad


def test_input_gradients_leave_the_parameters_as_they_were(teacher):
    teacher.fc.bias.requires_grad_(False)
    before = [value.requires_grad for value in teacher.parameters()]
    trace = FrozenTeacher(teacher, Runtime("cpu", "fp32")).trace(IMAGES, {}, input_gradients=True)
    assert [value.requires_grad for value in teacher.parameters()] == before
    trace.logits.sum().backward()
    assert all(value.grad is None for value in teacher.parameters())


def test_an_error_in_the_forward_leaves_the_parameters_as_they_were():
    class Failing(nn.Linear):
        def forward(self, x):
            raise RuntimeError("broken")

    model = Failing(2, 2)
    with pytest.raises(RuntimeError, match="broken"):
        FrozenTeacher(model, Runtime("cpu", "fp32")).trace(torch.ones(1, 2), {}, input_gradients=True)
    assert all(value.requires_grad for value in model.parameters())
