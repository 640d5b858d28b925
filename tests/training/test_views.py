"""Methods that see two views of each image, in whole runs and beside methods that do not."""

import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from kdengine import Distiller, Engine, Registry
from kdengine.config.settings import Settings
from kdengine.networks.models import ModelSource
from kdengine.plugins.selection import choose_distillers
from kdengine.runs.session import Session
from kdengine.training.signals import Stop
from kdengine.training.trainer import Trainer, ask_teachers

TRAIN = {"epochs": 2, "batch_size": 8, "precision": "fp32", "device": "cpu", "lr": 0.02, "workers": 0}
SETTINGS = {"student": "resnet8", "teacher": "resnet14", "data": "digits@train=24@test=16", "train": TRAIN}


class Lab:
    """One teacher, one data set, and as many lanes as are asked for."""

    def __init__(self, **train):
        settings = Settings.checked({**SETTINGS, "train": {**TRAIN, **train}})
        self.teacher = ModelSource("resnet14", {"num_classes": 10}, (3, 32, 32), Registry()).create(5)
        self.session = Session.open(settings, Registry(), modules={"teacher": self.teacher})

    def lane(self, *plugins, **options):
        distillers = choose_distillers(plugins, options, self.session.registry)
        return self.session.lane("+".join(map(str, plugins)), self.session.student(), distillers)

    def teach(self, *lanes):
        Trainer(lanes, self.session.data, self, Stop()).fit()
        assert not [lane.failure for lane in lanes if lane.failure]
        return lanes

    def after_step(self, lane, done, total):
        pass

    def after_epoch(self, lane, record):
        pass

    def ended(self, lane):
        pass


def result_of(lane):
    rows = [{key: value for key, value in row.items() if "second" not in key} for row in lane.history]
    return rows, {name: value.clone() for name, value in lane.student.state_dict().items()}


def same(one, other):
    return one[0] == other[0] and all(torch.equal(value, other[1][name]) for name, value in one[1].items())


@pytest.fixture(scope="module")
def together():
    lab = Lab()
    return dict(
        zip(("plain", "st", "mlld"), map(result_of, lab.teach(lab.lane(), lab.lane("st"), lab.lane("mlld"))), strict=True)
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", "st", "mlld"])
def test_a_lane_is_bit_identical_alone_and_beside_lanes_that_need_other_views(name, together):
    lab = Lab()
    (alone,) = lab.teach(lab.lane(*([] if name == "plain" else [name])))
    assert same(result_of(alone), together[name])


def test_the_lanes_differ(together):
    assert not same(together["plain"], together["st"])
    assert not same(together["st"], together["mlld"])


class Steps(Distiller):
    """Keeps what it is shown."""

    name = "steps"

    def __init__(self, **options):
        super().__init__(**options)
        self.shown = []

    def forward(self, step):
        self.shown.append(
            [(view.x.clone(), view.student.logits.detach().clone(), view.teacher.logits.clone()) for view in step.views]
        )
        return {"gap": (step.student.logits - step.teacher.logits).square().mean()}


class TwoSteps(Steps):
    """The same of two views, with a loss on the second alone."""

    name = "two-steps"
    needs = ("views:2",)

    def forward(self, step):
        super().forward(step)
        second = step.views[1]
        return {"gap": (second.student.logits - second.teacher.logits).square().mean(), "task": second.task_loss()}


def test_beside_a_method_in_two_views_another_of_the_same_lane_sees_the_first():
    lab = Lab(epochs=1)
    one, two = Steps(), TwoSteps()
    lab.teach(lab.lane(one, two))
    assert {len(views) for views in one.shown} == {1}
    assert {len(views) for views in two.shown} == {2}
    for (first,), (also_first, second) in zip(one.shown, two.shown, strict=True):
        for mine, theirs, others in zip(first, also_first, second, strict=True):
            assert torch.equal(mine, theirs)
            assert not torch.equal(mine, others)


def test_each_view_shows_what_both_networks_make_of_it():
    lab = Lab(epochs=1)
    method = TwoSteps()
    lane = lab.lane(method)
    batch = next(iter(lab.session.data.training(2).epoch(0)))
    lane.begin_epoch()
    lane.learner.eval()
    terms, _ = lane.module(*lane.inputs(batch, ask_teachers([lane], batch)))
    ((first, second),) = method.shown
    for number, (x, student, teacher) in enumerate((first, second)):
        assert torch.equal(x, batch.view(number))
        for logits, network in ((student, lane.student), (teacher, lab.teacher)):
            expected = network.eval()(x)
            assert torch.allclose(logits, expected, atol=1e-5)
    assert torch.allclose(terms["two-steps.task"], F.cross_entropy(second[1], batch.y))
    gradients = torch.autograd.grad(terms["two-steps.gap"], list(lane.student.parameters()))
    assert all(gradient.abs().max() > 0 for gradient in gradients)


def test_the_task_loss_of_a_view_is_that_of_the_run():
    """With label smoothing, as the task's own term has."""
    lab = Lab(epochs=1, label_smoothing=0.2)
    method = TwoSteps()
    lane = lab.lane(method)
    batch = next(iter(lab.session.data.training(2).epoch(0)))
    lane.begin_epoch()
    terms, _ = lane.module(*lane.inputs(batch, ask_teachers([lane], batch)))
    (views,) = method.shown
    for name, (_, logits, _) in zip(("task", "two-steps.task"), views, strict=True):
        assert torch.allclose(terms[name], F.cross_entropy(logits, batch.y, label_smoothing=0.2))


def forwards(*plugins):
    """How many images teacher and students of lanes see in one epoch of 24, training and nothing else."""
    lab = Lab(epochs=1, fold_teacher=False)
    lanes = [lab.lane(*names) for names in plugins]
    networks = [lab.session.teachers[0].network.module, *(lane.student for lane in lanes)]
    counts = [0] * len(networks)

    def watch(number):
        def note(module: nn.Module, inputs):
            counts[number] += len(inputs[0]) if module.training or number == 0 else 0

        return note

    for number, network in enumerate(networks):
        network.register_forward_pre_hook(watch(number))
    lab.teach(*lanes)
    return counts


def test_only_what_needs_two_views_pays_for_them():
    assert forwards(["st"], ["at"]) == [24, 24, 24]
    assert forwards(["st"], ["mlld"], []) == [48, 24, 48, 24]


def rows(folder):
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if "second" not in name} for row in found]


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_in_two_views_resumes_in_the_middle_of_an_epoch_bit_for_bit(workers, tmp_path, pull):
    def engine(name, *observers, **more):
        teacher = ModelSource("resnet14", {"num_classes": 10}, (3, 32, 32), Registry()).create(5)
        settings = {**TRAIN, "data": SETTINGS["data"], "save_minutes": 1e-9, "batch_size": 4, **more}
        return Engine(teacher, "resnet8", ["mlld"], out=tmp_path / name, observers=observers, **settings)

    whole = engine("whole", workers=0).fit()
    with pytest.raises(RuntimeError, match="pulled the plug"):
        engine("part", pull(8), workers=workers).fit()  # 6 steps are an epoch
    teacher = ModelSource("resnet14", {"num_classes": 10}, (3, 32, 32), Registry()).create(5)
    again = Engine.resume(tmp_path / "part", teacher=teacher).fit()
    assert rows(again.folder) == rows(whole.folder)
    one, other = (load_file(run.folder / "student.safetensors") for run in (again, whole))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
