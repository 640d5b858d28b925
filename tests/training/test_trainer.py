import weakref
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch

from kdengine import Distiller, Phase, Registry, TrainingError
from kdengine.config.settings import Settings
from kdengine.data.batches import Batch
from kdengine.data.datamodule import DataModule
from kdengine.networks.models import ModelSource
from kdengine.plugins.selection import choose_distillers
from kdengine.runs.session import Session
from kdengine.training.signals import Stop
from kdengine.training.trainer import Trainer, _step

SETTINGS = {
    "student": "resnet8",
    "teacher": "resnet14",
    "data": "digits@train=24@test=16",
    "train": {"epochs": 2, "batch_size": 8, "precision": "fp32", "device": "cpu", "lr": 0.02},
}
TIMES = ("seconds", "images_per_second")
METHODS = ["plain", "st", "fitnet", "at", "rkd", "ab", "takd", "dml", "jacobian", "svd"]


class Alone:
    """One of two processes, whose share of the last batch is too small for the network."""

    name = "plain"
    runtime = SimpleNamespace(processes=2)

    def step(self, batch, traces):
        raise ValueError("Expected more than 1 value per channel when training")


def test_a_share_of_one_image_ends_a_process_with_the_way_out_instead_of_leaving_the_others_to_wait():
    with pytest.raises(TrainingError, match=r"batch of one image: .*train.batch_size"):
        _step(Alone(), Batch(torch.zeros(1, 3, 8, 8), torch.zeros(1), None), {})


class Lab:
    """One teacher, one data set, and as many lanes as are asked for."""

    def __init__(self, **train):
        # a folded copy would run in the teacher's place, after forwards that compare the two, and hooks could not count
        train = {"fold_teacher": False, **SETTINGS["train"], **train}
        settings = Settings.checked({**SETTINGS, "train": train})
        teacher = ModelSource("resnet14", {"num_classes": 10}, (3, 32, 32), Registry()).create(5)
        self.session = Session.open(settings, Registry(), modules={"teacher": teacher})
        self.settings, self.data, self.teacher = settings, self.session.data, self.session.teachers[0].network
        self.told, self.finished = [], []

    def lane(self, name, plugins=None, settings=None):
        plugins = [] if name == "plain" else plugins or [name]
        distillers = choose_distillers(plugins, {}, self.session.registry)
        return self.session.lane(name, self.session.student(), distillers, settings)

    def teach(self, *lanes):
        Trainer(lanes, self.data, self, Stop()).fit()
        return lanes

    def after_step(self, lane, done, total):
        pass

    def after_epoch(self, lane, record):
        self.told.append((record["lane"], record["epoch"]))

    def ended(self, lane):
        self.finished.append(lane.name)


def rows(lane):
    return [{key: value for key, value in record.items() if key not in TIMES} for record in lane.history]


def same_weights(one, other):
    first, second = one.student.state_dict(), other.student.state_dict()
    return all(torch.equal(first[key], second[key]) for key in first)


@pytest.fixture(scope="module")
def together():
    lab = Lab()
    return {lane.name: lane for lane in lab.teach(*map(lab.lane, METHODS))}


@pytest.mark.sample(4)
@pytest.mark.parametrize("method", METHODS)
def test_a_lane_among_others_is_bit_identical_to_the_same_lane_alone(method, together):
    lab = Lab()
    (alone,) = lab.teach(lab.lane(method))
    assert rows(alone) == rows(together[method])
    assert same_weights(alone, together[method])


def test_lanes_of_one_lab_begin_alike_and_end_differently(together):
    lanes = list(together.values())
    assert [len(lane.history) for lane in lanes] == [2, 2, 3, 2, 2, 3, 4, 2, 2, 2]
    assert not any(same_weights(lanes[0], lane) for lane in lanes[1:])
    lab = Lab()
    fresh = [lab.lane(method) for method in METHODS]
    assert all(same_weights(fresh[0], lane) for lane in fresh[1:])


@pytest.mark.slow
def test_a_lane_with_dropout_draws_the_same_numbers_among_others_as_alone():
    def lane(lab, name):
        made = lab.lane(name)
        made.student.head_drop.p = 0.5
        return made

    lab, other = Lab(), Lab()
    plain, _ = lab.teach(lane(lab, "plain"), lane(lab, "rkd"))
    (alone,) = other.teach(lane(other, "plain"))
    assert rows(plain) == rows(alone)


class Breaking(Distiller):
    """Turns NaN in the third step."""

    name = "breaking"
    steps = 0

    def forward(self, step):
        self.steps += 1
        if self.steps == 3:
            self.before = {key: value.clone() for key, value in self.student().state_dict().items()}
        return {"fine": step.student.logits.mean(), "worm": step.student.logits.mean() * (torch.nan if self.steps == 3 else 1)}


def test_a_lane_whose_loss_is_no_longer_finite_leaves_and_the_others_go_on(together):
    lab = Lab()
    breaking = Breaking()
    broken = lab.lane("breaking", [breaking])
    breaking.student = lambda: broken.student
    plain, _ = lab.teach(lab.lane("plain"), broken)
    assert isinstance(broken.failure, TrainingError)
    message = str(broken.failure)
    assert "breaking.worm = nan" in message
    assert "epoch 1, step 3" in message
    assert "fine" not in message
    parameters = dict(broken.student.named_parameters())
    assert all(torch.equal(value, breaking.before[name]) for name, value in parameters.items())
    assert rows(plain) == rows(together["plain"])
    assert lab.told == [("plain", 1), ("plain", 2)]
    assert lab.finished == ["breaking", "plain"]


class Counting:
    """Batches that count how many of them were asked for."""

    def __init__(self, batches):
        self.batches, self.given = batches, 0

    def __len__(self):
        return len(self.batches)

    def epoch(self, number, start=0):
        for batch in self.batches.epoch(number, start):
            self.given += 1
            yield batch


def test_an_epoch_ends_when_no_lane_is_left():
    lab = Lab(batch_size=4)
    batches = Counting(lab.data.train)
    lab.data = DataModule(batches, lab.data.test, (3, 32, 32), 10, 24)
    broken = lab.lane("breaking", [Breaking()])
    broken.module.distillers["breaking"].student = lambda: broken.student
    lab.teach(broken)
    assert batches.given == 3
    assert lab.told == []


def calls(module):
    seen = []
    module.register_forward_hook(lambda *_: seen.append(1))
    return seen


def test_the_teacher_runs_once_a_batch_however_many_lanes_there_are():
    lab = Lab(epochs=1)
    seen = calls(lab.teacher.module)
    lab.teach(lab.lane("st"), lab.lane("at"), lab.lane("rkd"))
    assert len(seen) == 3


def test_the_teacher_does_not_run_for_lanes_that_need_nothing_of_it():
    lab = Lab(epochs=1)
    seen = calls(lab.teacher.module)
    lab.teach(lab.lane("plain"))
    assert seen == []


def test_the_teacher_stops_at_the_deepest_tap_that_any_lane_reads():
    lab = Lab(epochs=1)
    deep, deeper = calls(lab.teacher.module.layer3), calls(lab.teacher.module.fc)
    lab.teach(lab.lane("at"))
    assert len(deep) == 3
    assert deeper == []
    lab.teach(lab.lane("at"), lab.lane("st"))
    assert len(deeper) == 3


class Nosy(Distiller):
    """Reads the teacher's logits without having said so."""

    name = "nosy"
    taps = ("stage1",)

    def forward(self, step):
        return {"loss": (step.student.logits - step.teacher.logits).square().mean()}


class Honest(Nosy):
    """Says that it reads them."""

    name = "honest"
    taps = ("stage1", "logits")


def test_a_method_that_reads_logits_it_has_not_declared_gets_them_and_later_forwards_are_whole():
    lab = Lab(epochs=1)
    seen = calls(lab.teacher.module.act1)
    (nosy,) = lab.teach(lab.lane("nosy", [Nosy()]))
    assert len(seen) == 4, "one forward too many for the first batch, none for the later ones"
    (honest,) = lab.teach(lab.lane("honest", [Honest()]))
    assert nosy.history[0]["terms"]["nosy.loss"] == honest.history[0]["terms"]["honest.loss"]


class Bare(Nosy):
    """Reads logits, and no tap."""

    name = "bare"
    taps = ()


def test_a_method_without_taps_sees_the_logits_of_both_networks():
    lab = Lab(epochs=1)
    (bare,) = lab.teach(lab.lane("bare", [Bare()]))
    (honest,) = lab.teach(lab.lane("honest", [Honest()]))
    assert bare.failure is None
    assert bare.history[0]["terms"]["bare.loss"] == honest.history[0]["terms"]["honest.loss"]
    assert bare.needs_teacher


class Meddling(Distiller):
    """Puts the teacher into training mode."""

    name = "meddling"

    def forward(self, step):
        self.teacher().train()
        return {"loss": step.student.logits.mean()}


def test_a_teacher_that_was_put_into_training_mode_is_an_error():
    lab = Lab(epochs=1)
    meddling = Meddling()
    meddling.teacher = lambda: lab.teacher.module
    with pytest.raises(TrainingError, match=r"^meddling: a step put the teacher into training mode.*eval\(\)"):
        lab.teach(lab.lane("honest", [Honest()]), lab.lane("meddling", [meddling]))


class Writing(Distiller):
    """Writes into what all lanes share."""

    name = "writing"
    taps = ("stage1",)

    def __init__(self, into):
        super().__init__()
        self.into = into

    def forward(self, step):
        shared = {"x": step.x, "y": step.y, "tap": step.teacher["stage1"], "logits": step.teacher.logits}[self.into]
        with torch.no_grad():
            shared.mul_(1)
        return {"loss": step.student.logits.square().mean()}


@pytest.mark.parametrize(
    ("into", "what"),
    [("x", "images or targets"), ("y", "images or targets"), ("tap", "teacher's trace")],
)
def test_a_step_that_writes_into_what_all_lanes_share_stops_the_run_by_the_lanes_name(into, what):
    lab = Lab(epochs=1)
    with pytest.raises(TrainingError, match=rf"^writing: a step modified the {what} in place.*clone"):
        lab.teach(lab.lane("writing", [Writing(into)]), lab.lane("honest", [Honest()]))


class Long(Distiller):
    """Has a stage of its own, with the task loss."""

    name = "long"

    def phases(self):
        return [Phase("warm", epochs=2, task=True)]

    def forward(self, step):
        return {"loss": step.student.logits.square().mean()}


@pytest.mark.slow
def test_lanes_of_different_length_see_the_same_epochs_as_alone():
    lab, other = Lab(epochs=1), Lab(epochs=1)
    long, _ = lab.teach(lab.lane("long", [Long()]), lab.lane("plain"))
    (alone,) = other.teach(other.lane("long", [Long()]))
    assert [record["phase"] for record in long.history] == ["warm", "warm", "joint"]
    assert rows(long) == rows(alone)
    assert lab.told == [("long", 1), ("plain", 1), ("long", 2), ("long", 3)]
    assert "test_top1" in long.history[0], "a stage with the task loss is measured"


class Watching(Distiller):
    """Notes which captured tensors are still alive when its turn comes."""

    name = "watching"
    taps = ("stages",)
    seen: ClassVar[list] = []
    alive: ClassVar[list] = []

    def forward(self, step):
        self.alive.append(sum(reference() is not None for reference in self.seen))
        self.seen.append(weakref.ref(step.student["stage1"]))
        return {"worm": step.student["stage1"].square().mean()}


def test_what_a_lane_captured_is_gone_before_the_next_one_steps():
    """Memory grows by the lanes, not by what they capture."""
    Watching.seen.clear(), Watching.alive.clear()
    lab = Lab(epochs=1)
    lab.teach(*(lab.lane(str(number), [Watching()]) for number in range(3)))
    assert len(Watching.alive) == 3 * 3
    assert set(Watching.alive) == {0}
