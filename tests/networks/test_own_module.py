"""Modules of the caller's own that cannot be trained, hooked or given float32 images are refused with the fix."""

import copy
import warnings

import pytest
import torch
from torch import nn

from kdengine import Engine, ModelError, TapError, TrainingError

DATA = "digits@train=32@test=16"


def network(classes=10):
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(1024, classes))


def plan(teacher=None, student=None):
    Engine(teacher, student or network(), ["st"] if teacher is not None else [], DATA, precision="fp32").plan()


class Cast(nn.Module):
    """Casts its images to its own precision, as networks of transformers do."""

    def __init__(self):
        super().__init__()
        self.layers = network().bfloat16()

    def forward(self, images):
        return self.layers(images.bfloat16())


class Held(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("weight", torch.zeros(3072, 10))

    def forward(self, images):
        return images.flatten(1) @ self.weight


def scripted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # deprecated, but in use
        return torch.jit.script(network())


def exported():
    """What torch.export returns, without the seconds that it takes."""

    def refuse(mode=True):
        raise NotImplementedError("Calling train() is not supported yet.")

    module = torch.fx.symbolic_trace(network())
    module.train = refuse
    return module


REFUSED = {
    "half": (lambda: network().half(), r"float16 weights .* module\.float\(\)"),
    "double": (lambda: network().double(), r"float64 weights .* module\.float\(\)"),
    "meta": (lambda: network().to("meta"), "on the meta device, such as '0.weight'"),
    "lazy": (lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(10)), r"such as '1.weight'.*torch\.zeros\(1, 3, 32, 32\)"),
    "parallel": (lambda: nn.DataParallel(network()), r"its \.module"),
    "script": (scripted, "TorchScript"),
    "exported": (exported, r"torch\.export"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_teacher_that_cannot_be_hooked_or_run_is_refused(kind):
    make, message = REFUSED[kind]
    with pytest.raises(ModelError, match=f"The teacher .*{message}"):
        plan(make())


def test_a_student_without_anything_to_train_is_refused():
    with pytest.raises(ModelError, match=r"nothing to train: requires_grad is False for all of its 6 parameters"):
        plan(student=network().requires_grad_(False))
    with pytest.raises(ModelError, match=r"nothing to train: it has no parameters"):
        plan(student=Held())


def test_a_teacher_that_casts_its_images_or_has_only_buffers_is_fine():
    plan(Cast())
    plan(Held())
    plan(torch.fx.symbolic_trace(network()))


def test_a_student_that_is_partly_the_teacher_is_refused_and_a_copy_is_not():
    teacher = network()
    student = nn.Sequential(*list(teacher)[:-1], nn.Linear(1024, 10))
    with pytest.raises(ModelError, match=r"share '0', so .*deepcopy"):
        plan(teacher, student)
    with pytest.raises(ModelError, match="are the same object"):
        plan(teacher, teacher)
    plan(teacher, copy.deepcopy(teacher))


class Sized(nn.Module):
    """Takes images of 64 x 64 alone."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 10))

    def forward(self, images):
        return self.layers(images)


class Numb(Sized):
    """Forgets that it ran under no_grad."""

    @torch.no_grad()
    def forward(self, images):
        return self.layers(images)


def test_a_teacher_for_images_of_another_size_is_answered_with_the_setting():
    with pytest.raises(TapError, match=r"Or set teacher_input\.size"):
        plan(Sized())


def test_a_student_without_a_gradient_is_stopped_with_the_likely_reasons(tmp_path):
    with pytest.raises(TrainingError, match=r"The loss \(task\) depends on nothing that is trained.*no_grad"):
        Engine(None, Numb(), data=DATA, epochs=1, student_input={"size": 64}, out=tmp_path / "run").fit()


def test_a_module_that_cannot_come_from_a_name_says_how_to_give_it_again(tmp_path):
    with pytest.raises(ModelError, match=r"Engine\.resume\(FOLDER, student=module\) or Comparison\.resume\(FOLDER, modules="):
        Engine(None, "module:Mine", data=DATA).plan()
