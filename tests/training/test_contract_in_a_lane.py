"""What the contract offers, in lanes of tiny networks."""

from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kdengine import Distiller, Phase, SettingsError, StepTransform, TrainingError
from kdengine.testing.bench import Bench, random_batch
from kdengine.testing.networks import tiny_pair
from kdengine.training.parameter_groups import parameter_groups


class Method(Distiller):
    """A method of these tests.

    Source: made for these tests.
    """

    name = "method"


def bench(kind, pair=None, **settings):
    return Bench(kind, pair or tiny_pair(), **settings)


def calls(module):
    seen = []
    module.register_forward_hook(lambda *_: seen.append(1))
    return seen


class OneSided(Method):
    """First the teacher alone, then the student alone, then both."""

    taps = ()
    seen: ClassVar = []

    def phases(self):
        return [Phase("teacher", 1), Phase("student", 1)]

    def student_taps_in(self, phase):
        return () if phase == "teacher" else ("stages",)

    def teacher_taps_in(self, phase):
        return () if phase == "student" else ("stage-1",)

    def build(self, pair):
        self.built = (tuple(pair.student_taps), tuple(pair.teacher_taps), pair.teacher["stage-1"].shape[1])
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, step):
        student = [step.student[name].square().mean() for name in step.student_taps]
        teacher = [step.teacher[name].square().mean() for name in step.teacher_taps]
        type(self).seen.append((step.phase, tuple(step.student_taps), tuple(step.teacher_taps), len(step.pairs)))
        return {"size": self.scale * torch.stack(student + teacher).mean()}


def test_a_network_of_which_nothing_is_read_does_not_run():
    OneSided.seen.clear()
    it = bench(OneSided)
    teacher, student, head = calls(it.teacher.stem), calls(it.student.stem), calls(it.teacher.fc)
    ran = []
    for lane in it.phases():
        it.step(random_batch(4))
        ran.append((lane.phase.name, len(teacher), len(student)))
    assert ran == [("teacher", 1, 0), ("student", 1, 1), ("joint", 2, 2)]
    assert head == [], "the teacher stops at the deepest tap"
    stages = ("stage1", "stage2", "stage3")
    assert OneSided.seen == [
        ("teacher", (), ("stage3",), 0),
        ("student", stages, (), 0),
        ("joint", stages, ("stage3",), 0),
    ]
    assert it.lane.module.methods["method"].built == (stages, ("stage3",), 32)


class Follower(Method):
    """Keeps an average of the student's classifier."""

    def build(self, pair):
        self.register_buffer("average", torch.zeros(10))
        self.updates = 0

    def after_update(self, student):
        assert not torch.is_grad_enabled()
        self.average.lerp_(student.fc.bias, 0.5)
        self.updates += 1

    def forward(self, step):
        return {"match": (step.student.logits - step.teacher.logits).square().mean()}


def test_a_method_is_told_of_every_update():
    it = bench(Follower)
    it.lane.begin_epoch()
    expected = torch.zeros(10)
    for seed in range(3):
        it.step(random_batch(4, seed))
        expected = expected.lerp(it.student.fc.bias.detach(), 0.5)
    follower = it.lane.module.methods["method"]
    assert follower.updates == 3
    assert torch.equal(follower.average, expected)


class Grouped(Method):
    """A temperature that learns faster and does not decay, and a map that does as the rest."""

    groups_of: ClassVar = {"lr_scale": 10.0, "weight_decay": 0.0}

    def build(self, pair):
        self.temperature = nn.Parameter(torch.ones(()))
        self.map = nn.Linear(10, 10)

    def parameter_groups(self):
        return [{"params": [self.temperature], **self.groups_of}]

    def forward(self, step):
        return {"match": (self.map(step.student.logits) / self.temperature - step.teacher.logits).square().mean()}


def test_parameters_of_a_method_get_a_rate_and_a_decay_of_their_own():
    lane = bench(Grouped).lane
    groups = parameter_groups(lane.module, lane.settings)
    method = lane.module.methods["method"]
    (own,) = (group for group in groups if any(value is method.temperature for value in group["params"]))
    (rest,) = (group for group in groups if group is not own)
    assert ([id(value) for value in own["params"]], own["lr_scale"], own["weight_decay"]) == (
        [id(method.temperature)],
        10.0,
        0.0,
    )
    assert (len(rest["params"]), rest["lr_scale"], "weight_decay" in rest) == (
        len(list(lane.module.parameters())) - 1,
        1.0,
        False,
    )


def test_the_rate_is_that_of_the_schedule_times_its_factor():
    it = bench(Grouped)
    it.lane.begin_epoch()
    before = it.lane.module.methods["method"].temperature.item()
    terms = it.terms(random_batch(4))
    (slope,) = torch.autograd.grad(terms["method.match"], it.lane.module.methods["method"].temperature)
    it.step(random_batch(4))
    moved = before - it.lane.module.methods["method"].temperature.item()
    nesterov = 1 + it.lane.settings.concrete.momentum
    assert moved == pytest.approx(10 * it.lane.lr * nesterov * slope.item(), rel=1e-3)


@pytest.mark.parametrize(
    ("group", "message"), [({"lr": 1.0}, "returned a group of params, lr;"), ({"params": []}, None)], ids=["unknown", "empty"]
)
def test_a_group_with_other_keys_is_refused(group, message, monkeypatch):
    monkeypatch.setattr(Grouped, "groups_of", group)
    if message is None:
        assert bench(Grouped)
        return
    with pytest.raises(SettingsError, match=message):
        bench(Grouped)


class Doubled(StepTransform):
    """Double the logits of the student, and triple those of the teacher.

    Source: made for these tests.
    """

    name = "doubled"
    companions = ("st",)

    def transform(self, step):
        return step.with_logits(lambda logits: 2 * logits, lambda logits: 3 * logits)


def test_a_transform_changes_what_methods_see_but_not_the_task():
    it, plain = bench(Doubled, epochs=1), bench("st")
    plain.lane.begin_epoch(), it.lane.begin_epoch()
    assert list(it.lane.module.methods) == ["doubled", "st"]
    batch = random_batch(4)
    terms, before = it.terms(batch), plain.terms(batch)
    assert torch.equal(terms["task"], before["task"])
    method = it.lane.module.methods["st"]
    (trace,) = it.traces(batch).values()
    student = it.lane.module.student(batch.x)
    temperature = method.options.temperature
    log_q = F.log_softmax(2 * student / temperature, 1)
    expected = F.kl_div(log_q, F.softmax(3 * trace.logits / temperature, 1), reduction="batchmean")
    ratio = terms["st.soft"] / before["st.soft"]
    log_q = F.log_softmax(student / temperature, 1)
    assert ratio.item() == pytest.approx(
        (expected / F.kl_div(log_q, F.softmax(trace.logits / temperature, 1), reduction="batchmean")).item(), rel=1e-4
    )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (lambda step: None, "doubled: transform must return a step, got NoneType"),
        (lambda step: step.with_logits(step.student.logits, torch.zeros_like), "got a Tensor for the student: give a function"),
    ],
)
def test_a_transform_that_does_something_else_is_named(changed, message, monkeypatch):
    monkeypatch.setattr(Doubled, "transform", lambda self, step: changed(step))
    it = bench(Doubled, epochs=1)
    it.lane.begin_epoch()
    with pytest.raises(TrainingError, match=message):
        it.terms(random_batch(4))


class TwoViews(Method):
    """The squared difference of the student's logits on two views."""

    needs = ("views:2",)

    def forward(self, step):
        first, second = step.views
        assert first.student.logits is step.student.logits
        return {
            "student": (first.student.logits - second.student.logits).square().mean(),
            "teacher": (first.teacher.logits - second.teacher.logits).square().mean(),
        }


def test_a_second_view_runs_through_both_networks():
    it = bench(TwoViews)
    it.lane.begin_epoch()
    batch = random_batch(4)
    terms = it.terms(batch)
    with torch.no_grad():
        for side, network in (("student", it.student), ("teacher", it.teacher)):
            expected = (network(batch.x) - network(batch.views[0])).square().mean()
            assert terms[f"method.{side}"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_methods_that_need_one_view_see_one():
    seen = []

    class OneView(Method):
        def forward(self, step):
            seen.append(len(step.views))
            return {"match": (step.student.logits - step.teacher.logits).square().mean()}

    it = bench(OneView)
    it.lane.begin_epoch()
    student = calls(it.student)
    it.step(random_batch(4))
    assert (seen, len(student)) == ([1], 1)


class HeadOfTheStudent(Method):
    """Class activation maps of the student's own classifier."""

    taps = ("stage-1",)

    def forward(self, step):
        maps = step.student_head(step.student["stage-1"])
        return {"size": maps.square().mean() + 0 * step.teacher["stage-1"].sum()}


def test_the_students_head_is_trained_through():
    it = bench(HeadOfTheStudent)
    it.lane.begin_epoch()
    (slope,) = torch.autograd.grad(it.terms(random_batch(4))["method.size"], it.student.fc.weight)
    assert slope.abs().sum() > 0


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [("needs", ("labels:2",), "needs = 'labels:2'"), ("reads", "some-teachers", "reads = 'some-teachers'")],
)
def test_unknown_declarations_are_refused(attribute, value, message):
    with pytest.raises(SettingsError, match=message):
        bench(type("Odd", (Follower,), {attribute: value}))
