import copy
import json
import logging
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from kdengine import Distiller, Engine, Registry, SettingsError
from kdengine.data.load import load_data
from kdengine.networks.models import ModelSource
from kdengine.runs.evaluate_run import evaluate_folder
from kdengine.runs.result import Result
from kdengine.shipping.export import export_student
from kdengine.storage.scores import CLASSIFICATION

FAST = {"data": "digits@train=16@test=16", "epochs": 1, "precision": "fp32", "device": "cpu", "batch_size": 8, "lr": 0.02}


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


@pytest.mark.slow
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


FLIPPED = """
import torch
from kdengine import Distiller

class Negated(torch.nn.Module):
    def __init__(self, student):
        super().__init__()
        self.student = student
        self.scale = torch.nn.Parameter(torch.tensor(-1.0))

    def forward(self, x):
        return self.scale * self.student(x)

class Flipping(Distiller):
    name = "flipping"

    def forward(self, step):
        return {"loss": (step.student.logits - step.teacher.logits).square().mean()}

    def deploy(self, student):
        return Negated(student)
"""


@pytest.mark.slow
def test_the_network_that_is_shipped_is_the_one_that_is_measured_saved_and_evaluated_again(tmp_path):
    plugin, out, data = tmp_path / "flipping.py", tmp_path / "run", load_data(FAST["data"])
    plugin.write_text(FLIPPED, encoding="utf-8")
    load = {"out": tmp_path / "teacher", **FAST}
    teacher = Engine(None, "resnet14", **load).fit().folder
    result = Engine("resnet14", "resnet8", [str(plugin)], teacher_weights=teacher, out=out, **FAST | {"epochs": 2}).fit()
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (data.mean, data.std))
    with torch.no_grad():
        guessed = result.student((data.test.images.float() / 255 - mean) / std).argmax(1)
    accuracy = 100.0 * int((guessed == data.test.labels).sum()) / len(guessed)
    assert result.top1 == result.history[-1]["test_top1"] == pytest.approx(accuracy)
    assert float(load_file(out / "student-best.safetensors")["scale"]) == -1.0
    for weights, value in (("last", result.top1), ("best", result.best_top1)):
        assert evaluate_folder(out, weights, trust=True)["top1"] == value
    exported = export_student(out, "safetensors", tmp_path / "shipped.safetensors", trust=True)
    assert exported["difference"] < 1e-4
    assert float(load_file(exported["file"])["scale"]) == -1.0
    with pytest.raises(SettingsError, match="add --trust"):
        export_student(out, "safetensors")


def test_what_makes_the_numbers_mean_nothing_is_logged_and_in_the_folder(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("kdengine"), "propagate", True)  # the command line turns it off
    stuck = Engine(None, "cnn2", out=tmp_path / "run", **FAST | {"lr": 1e-9}).fit()
    (warning,) = stuck.warnings
    assert warning.startswith("The network is near chance, top-1 ")
    logged = {record.message for record in caplog.records if record.levelname == "WARNING"}
    assert logged == {f"cnn2 on {FAST['data']}: {warning}"}
    assert json.loads((tmp_path / "run" / "result.json").read_text())["warnings"] == [warning]
    assert "chance" in json.loads((tmp_path / "run" / "manifest.json").read_text())


def test_a_result_without_warnings_does_not_mention_them(tmp_path):
    scores = {"epochs": 4, "lr": 0.01, "batch_size": 32, "data": "digits@train=320@test=64"}
    learnt = Engine(None, "cnn2", out=tmp_path / "run", **FAST | scores).fit()
    assert learnt.warnings == ()
    assert "warnings" not in json.loads((tmp_path / "run" / "result.json").read_text())


def test_in_a_console_it_is_one_short_line_and_in_a_notebook_a_table(result):
    text = repr(result)
    assert text.startswith(f"Result(resnet8 taught by module:CifarResNet (fitnet+rkd), top-1 {result.top1:.2f} %, best ")
    assert len(text) < 200
    html = result._repr_html_()
    assert html.count("<tr>") == 3
    assert f"{result.teacher_top1:.2f} %" in html


def test_long_names_are_cut_and_markup_is_escaped():
    student = {"name": "timm:" + "x" * 200, "parameters": 5}
    result = Result(None, [], Path("runs") / ("<b>" * 100), CLASSIFICATION, {"student": student, "teacher": None})
    assert len(repr(result)) < 200
    assert "<b>" not in result._repr_html_()
