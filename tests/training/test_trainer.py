import weakref
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch

from kdengine import Distiller, Phase, Registry, TrainingError
from kdengine.config.settings import Settings
from kdengine.data.datamodule import DataModule
from kdengine.data.load import load_data
from kdengine.networks.factory import NetworkFactory
from kdengine.networks.inputs import ImageSpec
from kdengine.networks.models import ModelSource
from kdengine.networks.network import LaneContext, Network
from kdengine.plugins.selection import choose_distillers
from kdengine.training.build import make_lane
from kdengine.training.runtime import Runtime
from kdengine.training.signals import Stop
from kdengine.training.teacher import FrozenTeacher
from kdengine.training.trainer import fit

SETTINGS = {
    "student": "resnet8",
    "teacher": "resnet14",
    "data": "digits@train=192@test=64",
    "train": {"epochs": 2, "batch_size": 64, "precision": "fp32", "device": "cpu", "lr": 0.02},
}
TIMES = ("seconds", "images_per_second")
METHODS = ["plain", "st", "fitnet", "at", "rkd", "ab", "takd", "dml", "jacobian", "svd"]


class Session:
    """One teacher, one data set, and as many lanes as are asked for."""

    def __init__(self, **train):
        self.settings = Settings.checked({**SETTINGS, "train": {**SETTINGS["train"], **train}})
        self.registry = Registry()
        self.runtime = Runtime("cpu", self.settings.train.precision)
        self.source = DataModule.of_data(load_data(self.settings.data), self.settings, self.runtime.device)
        self.teacher = self.network("resnet14", seed=5)
        self.teaching = FrozenTeacher(self.teacher.module, self.runtime)
        self.told, self.ended = [], []

    def network(self, name, seed):
        module = ModelSource(name, 10, (3, 32, 32), self.registry).create(seed)
        return Network.probed(name, module, (3, 32, 32), 10)

    def lane(self, name, plugins=None, settings=None):
        plugins = [] if name == "plain" else plugins or [name]
        maker = NetworkFactory({"student": "resnet8", "teacher": "resnet14"}, 10, ImageSpec((3, 32, 32)), self.registry, 1)
        context = LaneContext(self.network("resnet8", seed=0), self.teacher, 10, self.source.num_samples, (3, 32, 32), maker)
        distillers = choose_distillers(plugins, {}, self.registry)
        batches = len(self.source.train)
        return make_lane(name, context, distillers, settings or self.settings, self.runtime, batches, self.teaching)

    def teach(self, *lanes):
        hook = SimpleNamespace(
            kdengine_after_step=lambda **_: None,
            kdengine_after_epoch=lambda run, record: self.told.append((record["lane"], record["epoch"])),
        )
        runs = [SimpleNamespace(runtime=self.runtime, hook=hook, lane=lane) for lane in lanes]
        fit(runs, self.source, lambda run: self.ended.append(run.lane.name), Stop())
        return lanes


def rows(lane):
    return [{key: value for key, value in record.items() if key not in TIMES} for record in lane.history]


def same_weights(one, other):
    first, second = one.student.state_dict(), other.student.state_dict()
    return all(torch.equal(first[key], second[key]) for key in first)


@pytest.fixture(scope="module")
def together():
    room = Session()
    return {lane.name: lane for lane in room.teach(*map(room.lane, METHODS))}


@pytest.mark.parametrize("method", METHODS)
def test_a_lane_among_others_is_bit_identical_to_the_same_lane_alone(method, together):
    room = Session()
    (alone,) = room.teach(room.lane(method))
    assert rows(alone) == rows(together[method])
    assert same_weights(alone, together[method])


def test_lanes_of_one_room_begin_alike_and_end_differently(together):
    lanes = list(together.values())
    assert [len(lane.history) for lane in lanes] == [2, 2, 3, 2, 2, 3, 4, 2, 2, 2]
    assert not any(same_weights(lanes[0], lane) for lane in lanes[1:])
    room = Session()
    fresh = [room.lane(method) for method in METHODS]
    assert all(same_weights(fresh[0], lane) for lane in fresh[1:])


def test_a_lane_with_dropout_draws_the_same_numbers_among_others_as_alone():
    def lane(room, name):
        made = room.lane(name)
        made.student.head_drop.p = 0.5
        return made

    room, other = Session(), Session()
    plain, _ = room.teach(lane(room, "plain"), lane(room, "rkd"))
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
    room = Session()
    breaking = Breaking()
    broken = room.lane("breaking", [breaking])
    breaking.student = lambda: broken.student
    plain, _ = room.teach(room.lane("plain"), broken)
    assert isinstance(broken.failure, TrainingError)
    message = str(broken.failure)
    assert "breaking.worm = nan" in message
    assert "epoch 1, step 3" in message
    assert "fine" not in message
    parameters = dict(broken.student.named_parameters())
    assert all(torch.equal(value, breaking.before[name]) for name, value in parameters.items())
    assert rows(plain) == rows(together["plain"])
    assert room.told == [("plain", 1), ("plain", 2)]
    assert room.ended == ["breaking", "plain"]


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
    room = Session(batch_size=16)
    batches = Counting(room.source.train)
    room.source = DataModule(batches, room.source.test, (3, 32, 32), 10, 192)
    broken = room.lane("breaking", [Breaking()])
    broken.module.distillers["breaking"].student = lambda: broken.student
    room.teach(broken)
    assert batches.given == 3
    assert room.told == []


def calls(module):
    seen = []
    module.register_forward_hook(lambda *_: seen.append(1))
    return seen


def test_the_teacher_runs_once_a_batch_however_many_lanes_there_are():
    room = Session(epochs=1)
    seen = calls(room.teacher.module)
    room.teach(room.lane("st"), room.lane("at"), room.lane("rkd"))
    assert len(seen) == 3


def test_the_teacher_does_not_run_for_lanes_that_need_nothing_of_it():
    room = Session(epochs=1)
    seen = calls(room.teacher.module)
    room.teach(room.lane("plain"))
    assert seen == []


def test_the_teacher_stops_at_the_deepest_tap_that_any_lane_reads():
    room = Session(epochs=1)
    deep, deeper = calls(room.teacher.module.layer3), calls(room.teacher.module.fc)
    room.teach(room.lane("at"))
    assert len(deep) == 3
    assert deeper == []
    room.teach(room.lane("at"), room.lane("st"))
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
    room = Session(epochs=1)
    seen = calls(room.teacher.module.act1)
    (nosy,) = room.teach(room.lane("nosy", [Nosy()]))
    assert len(seen) == 4, "one forward too many for the first batch, none for the later ones"
    (honest,) = room.teach(room.lane("honest", [Honest()]))
    assert nosy.history[0]["terms"]["nosy.loss"] == honest.history[0]["terms"]["honest.loss"]


class Meddling(Distiller):
    """Puts the teacher into training mode."""

    name = "meddling"

    def forward(self, step):
        self.teacher().train()
        return {"loss": step.student.logits.mean()}


def test_a_teacher_that_was_put_into_training_mode_is_an_error():
    room = Session(epochs=1)
    meddling = Meddling()
    meddling.teacher = lambda: room.teacher.module
    with pytest.raises(TrainingError, match=r"^meddling: a step put the teacher into training mode.*eval\(\)"):
        room.teach(room.lane("honest", [Honest()]), room.lane("meddling", [meddling]))


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
    [("x", "images or labels"), ("y", "images or labels"), ("tap", "what the teacher showed")],
)
def test_a_step_that_writes_into_what_all_lanes_share_stops_the_run_by_the_lanes_name(into, what):
    room = Session(epochs=1)
    with pytest.raises(TrainingError, match=rf"^writing: a step wrote into (the )?{what}.*clone"):
        room.teach(room.lane("writing", [Writing(into)]), room.lane("honest", [Honest()]))


class Long(Distiller):
    """Has a stage of its own, with the task loss."""

    name = "long"

    def phases(self):
        return [Phase("warm", epochs=2, task=True)]

    def forward(self, step):
        return {"loss": step.student.logits.square().mean()}


def test_lanes_of_different_length_see_the_same_epochs_as_alone():
    room, other = Session(epochs=1), Session(epochs=1)
    long, _ = room.teach(room.lane("long", [Long()]), room.lane("plain"))
    (alone,) = other.teach(other.lane("long", [Long()]))
    assert [record["phase"] for record in long.history] == ["warm", "warm", "joint"]
    assert rows(long) == rows(alone)
    assert room.told == [("long", 1), ("plain", 1), ("long", 2), ("long", 3)]
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
    room = Session(epochs=1)
    room.teach(*(room.lane(str(number), [Watching()]) for number in range(3)))
    assert len(Watching.alive) == 3 * 3
    assert set(Watching.alive) == {0}
