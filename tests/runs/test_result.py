import copy
import pickle
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from kdengine import Distiller, Engine, Registry
from kdengine.networks.models import ModelSource

FAST = {"data": "digits@train=128@test=64", "epochs": 1, "precision": "fp32", "device": "cpu", "batch_size": 64, "lr": 0.02}


def network(name="resnet14", seed=5):
    return ModelSource(name, {"num_classes": 10}, (3, 32, 32), Registry()).create(seed)


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return Engine(network(), "resnet8", ["fitnet", "rkd"], out=tmp_path_factory.mktemp("result"), **FAST).fit()


def test_the_student_is_a_plain_network_in_eval_without_gradients(result):
    student = result.student
    assert type(student) is type(network("resnet8"))
    assert not any(module.training for module in student.modules())
    assert student.state_dict().keys() == network("resnet8").state_dict().keys()
    assert all(value.dtype in (torch.float32, torch.int64) for value in student.state_dict().values())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in student.parameters())


def test_the_student_can_be_copied_and_pickled(result):
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = result.student(x)
        for twin in (copy.deepcopy(result.student), pickle.loads(pickle.dumps(result.student))):
            assert torch.equal(twin(x), expected)


def test_a_pickled_student_needs_no_kdengine(result, tmp_path):
    (tmp_path / "student.pickle").write_bytes(pickle.dumps(result.student))
    code = "import pickle, sys; pickle.load(open(sys.argv[1], 'rb')); print('kdengine' in sys.modules)"
    command = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "student.pickle")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "False\n"


def test_the_students_file_holds_what_the_student_holds(result):
    kept, state = load_file(result.folder / "student.safetensors"), result.student.state_dict()
    assert kept.keys() == state.keys()
    assert all(torch.equal(kept[key], state[key]) for key in kept)


def test_the_result_names_what_was_found(result):
    student, teacher = result.facts["student"], result.facts["teacher"]
    assert (result.top1, result.best_top1, result.teacher_top1) == (student["top1"], student["best_top1"], teacher["top1"])
    assert result.to_dict() == result.facts
    assert result.facts["methods"] == ["fitnet", "rkd"]
    assert [record["phase"] for record in result.history] == ["hint", "joint"]
    assert student["parameters"] == sum(value.numel() for value in result.student.parameters())
    assert student["training_parameters"] > student["parameters"]


class Headless(nn.Module):
    """What is shipped: the student with another output."""

    def __init__(self, student):
        super().__init__()
        self.student = student
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.scale * self.student(x)


class Changing(Distiller):
    """Ships another network than it trains."""

    name = "changing"

    def forward(self, step):
        return {"loss": step.student.logits.square().mean()}

    def deploy(self, student):
        return Headless(student).train()


def test_a_method_that_ships_another_network_has_it_in_the_result_and_in_the_folder(tmp_path):
    result = Engine(network(), "resnet8", [Changing()], out=tmp_path, **FAST).fit()
    assert isinstance(result.student, Headless)
    assert not result.student.training
    assert "scale" in load_file(tmp_path / "student.safetensors")
    assert result.facts["student"]["parameters"] == 1 + sum(v.numel() for v in result.student.student.parameters())
