import pytest
import torch
from torch import nn

from kdengine import Distiller, Engine, Step, Trace, TrainingError
from kdengine.methods.pairing import TapBinding
from kdengine.methods.step import JOINT
from kdengine.tasks import Classification
from kdengine.testing import tiny_pair
from kdengine.training.lane_module import LaneModule, ResolvedPhase


class Method(Distiller):
    """Returns what it is given."""

    name = "method"

    def __init__(self, found, **options):
        super().__init__(**options)
        self.found = found

    def forward(self, step: Step):
        return self.found


@pytest.fixture
def terms():
    """The terms of a lane whose one method returns ``found``."""

    def make(found, task_weight=1.0, label_smoothing=0.0, **options):
        torch.manual_seed(0)
        student = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
        module = LaneModule(student, {"method": Method(found, **options)}, Classification(4, label_smoothing))
        module.phase = ResolvedPhase(JOINT, 1, True, {"method": TapBinding()}, task_weight)
        x, y = torch.randn(5, 3, 2, 2), torch.tensor([0, 1, 2, 3, 0])
        found, logits = module(x, y, torch.arange(5), [[Trace({}, torch.zeros(5, 4))]])
        assert logits.shape == (5, 4)
        return found, logits, y

    return make


def test_terms_bear_the_name_of_their_method_and_its_weight(terms):
    found, logits, y = terms({"a": torch.tensor(2.0), "b": torch.tensor([3.0])}, weight=0.5)
    assert found.keys() == {"task", "method.a", "method.b"}
    assert (found["method.a"], found["method.b"]) == (1.0, 1.5)
    assert all(value.shape == () for value in found.values())
    picked = logits.double().log_softmax(1)[range(5), y]
    assert float(found["task"].detach()) == pytest.approx(float(-picked.mean().detach()), rel=1e-6)


def test_label_smoothing_mixes_the_labels_with_all_classes(terms):
    found, logits, y = terms({}, label_smoothing=0.2, task_weight=3.0)
    logs = logits.double().log_softmax(1)
    expected = -(0.8 * logs[range(5), y] + 0.2 * logs.mean(1)).mean()
    assert float(found["task"].detach()) == pytest.approx(3 * float(expected.detach()), rel=1e-6)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (torch.zeros(()), r"method: forward must return \{name: scalar tensor\}, got Tensor"),
        (None, "got NoneType"),
        ({"a": torch.zeros(5)}, r"method.a must be a scalar tensor \[\], got \[5\]. Reduce it"),
        ({"a": 1.0}, "method.a must be a scalar tensor .* got float"),
    ],
)
def test_what_is_no_mapping_of_scalars_is_refused(terms, found, message):
    with pytest.raises(TrainingError, match=message):
        terms(found)


def test_the_methods_are_part_of_what_is_trained():
    method = Method({})
    method.connector = nn.Linear(2, 2)
    module = LaneModule(nn.Linear(2, 2), {"method": method}, Classification(2))
    assert module.methods == {"method": method}
    assert {id(parameter) for parameter in method.parameters()} <= {id(parameter) for parameter in module.parameters()}


class Differentiating(Distiller):
    """Differentiates the teacher with respect to its images."""

    name = "differentiating"
    needs = ("input_gradients",)

    def forward(self, step):
        (slope,) = torch.autograd.grad(step.teacher.logits.sum(), step.teacher.input, retain_graph=True)
        (own,) = torch.autograd.grad(step.student.logits.sum(), step.student.input, create_graph=True)
        return {"slopes": (slope - own).square().mean()}


class Looking(Distiller):
    """Keeps whether what it saw of the teacher has a history."""

    name = "looking"

    def forward(self, step):
        self.seen = step.teacher.logits.requires_grad, step.teacher["logits"].requires_grad
        return {"match": (step.student.logits - step.teacher.logits).square().mean()}


def test_only_a_method_that_asks_for_it_sees_a_teacher_with_a_history(tmp_path):
    teacher, student = tiny_pair()
    looking = Looking()
    settings = {"epochs": 1, "precision": "bf16", "device": "cpu", "out": tmp_path / "run"}
    result = Engine(teacher, student, [Differentiating(), looking], "digits@train=32@test=16", **settings).fit()
    assert result.history[0]["terms"]["differentiating.slopes"] > 0
    assert looking.seen == (False, False)


class Writing(Distiller):
    """Writes into the student's logits, which the metrics read."""

    name = "writing"

    def forward(self, step):
        return {"loss": step.student.logits.zero_().sum()}


def test_a_method_that_writes_into_the_students_output_is_stopped():
    _, student = tiny_pair()
    student = LaneModule(student, {"writing": Writing()}, Classification(10))
    student.phase = ResolvedPhase(JOINT, 1, True, {"writing": TapBinding()})
    with pytest.raises(TrainingError, match=r"writing: forward modified 'logits' of the student in place"):
        student(torch.zeros(2, 3, 32, 32), torch.zeros(2, dtype=torch.int64), None, [[Trace({}, torch.zeros(2, 10))]])
