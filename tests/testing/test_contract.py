"""Every check of the contract fails for a method with the fault that it is there for, and for no good method."""

import gc
import random

import numpy as np
import pytest
import torch
from kdplugin_rkd import RKD
from torch import nn

from kdengine import Distiller, KDError
from kdengine.config.settings import Strict
from kdengine.testing import DistillerContract
from kdengine.testing.bench import Bench
from kdengine.testing.networks import TinyCNN, tiny_pair

CHECKS = [name for name in dir(DistillerContract) if name.startswith("test_")]


class Good(Distiller):
    """Match the embeddings through a linear map.

    Source: made for this test.
    """

    name = "good"
    taps = ("embedding",)
    takes = "vectors"

    class Options(Distiller.Options):
        scale: float = 1.0
        """A factor."""

    def build(self, pair):
        (tap,) = pair.pairs
        self.map = nn.Linear(tap.student.shape[1], tap.teacher.shape[1])

    def forward(self, step):
        (tap,) = step.pairs
        return {"match": self.options.scale * (self.map(tap.student) - tap.teacher).square().mean()}


def networks():
    return [found for found in gc.get_objects() if type(found) is TinyCNN]


class NotFinite(Good):
    def forward(self, step):
        return {"match": super().forward(step)["match"] * float("inf")}


class Detached(Good):
    def forward(self, step):
        (tap,) = step.pairs
        return {"match": (self.map(tap.student.detach()) - tap.teacher).square().mean()}


class IdleConnector(Good):
    def build(self, pair):
        super().build(pair)
        self.idle = nn.Linear(3, 3)


class Unregistered(Good):
    def build(self, pair):
        super().build(pair)
        self.hidden = [torch.zeros(3, requires_grad=True)]

    def forward(self, step):
        return {"match": super().forward(step)["match"] + self.hidden[0].square().sum()}


class Late(Good):
    def forward(self, step):
        if not hasattr(self, "late"):
            self.late = nn.Parameter(torch.ones(()))
        return {"match": super().forward(step)["match"] * 2}


class TeacherInTraining(Good):
    def forward(self, step):
        for network in networks():
            network.train()
        return super().forward(step)


class TeacherChanged(Good):
    def forward(self, step):
        with torch.no_grad():
            for network in networks():
                network.fc.bias.add_(1.0)
        return super().forward(step)


class InPlace(Good):
    def forward(self, step):
        step.teacher["embedding"].div_(2.0)
        return super().forward(step)


class Relabelling(Good):
    def forward(self, step):
        step.y.zero_()
        return super().forward(step)


class NeverOff(Good):
    class Options(Good.Options):
        weight: float = 1.0
        """Always on."""

        def model_post_init(self, context):
            if not self.weight:
                raise ValueError("cannot be switched off")


class SeedingNumPy(Good):
    def forward(self, step):
        np.random.seed(0)
        return super().forward(step)


class SeedingPython(Good):
    def forward(self, step):
        random.seed(0)
        return super().forward(step)


class Seeding(Good):
    def forward(self, step):
        torch.manual_seed(0)
        return super().forward(step)


class Keeping(Good):
    def forward(self, step):
        self.last = step.student["embedding"]
        return super().forward(step)


class Hooking(Good):
    def forward(self, step):
        for network in networks():
            network.fc.register_forward_hook(lambda *_: None)
        return super().forward(step)


class AcrossTheBatch(Good):
    def forward(self, step):
        (tap,) = step.pairs
        student, teacher = (self.spread(vectors) for vectors in (self.map(tap.student), tap.teacher))
        return {"match": (student - teacher).square().mean()}

    def spread(self, vectors):
        return (vectors - vectors.mean(0)).square().sum(0) / (len(vectors) - 1)


class HalfPrecision(Good):
    def forward(self, step):
        return {"match": super().forward(step)["match"].bfloat16()}


class Counting(Good):
    steps = 0

    def forward(self, step):
        self.steps += 1
        return {"match": self.steps * super().forward(step)["match"]}


class Holding(Good):
    def forward(self, step):
        self.last_loss = super().forward(step)["match"]
        return {"match": self.last_loss}


class Lenient(Good):
    class Options(Good.Options):
        model_config = Strict.model_config | {"extra": "allow"}


class Sourceless(Good):
    """Nobody knows where it is from."""


class Helpless(Good):
    """Match the embeddings through a linear map.

    Source: made for this test.
    """

    class Options(Good.Options):
        strength: float = 1.0


class NeverNothing(Good):
    def build(self, pair):
        return

    def forward(self, step):
        (tap,) = step.pairs
        return {"match": (tap.student - tap.teacher).square().mean() + 0.5}


class Idle(Good):
    student_taps = ("stage1",)


class Undeclared(Good):
    def forward(self, step):
        return {"match": super().forward(step)["match"] * (1 + 0 * step.index.sum())}


class NeedsLabels(Good):
    def build(self, pair):
        super().build(pair)
        self.classes = int(pair.labels.max())


class Dependent(Good):
    requires_teacher = False
    taps = ()
    student_taps = ("embedding",)

    def build(self, pair):
        self.map = nn.Linear(pair.student["embedding"].shape[1], 3)

    def forward(self, step):
        return {"match": (self.map(step.student["embedding"]) * step.teacher.logits.mean()).mean()}


class Shipping(Good):
    """A network that ships with a factor that its state does not hold."""

    class Shipped(nn.Module):
        def __init__(self, student, factor):
            super().__init__()
            self.student, self.factor = student, factor

        def forward(self, images):
            return self.factor * self.student(images)

    def deploy(self, student):
        return self.Shipped(student, self.map.weight.detach().sum())


class AverageInAnAttribute(Good):
    """An average of the student that no buffer holds, so that no restart finds it again."""

    average = 0.0

    def after_update(self, student):
        self.average = 0.5 * self.average + 0.5 * float(student.fc.weight.sum())

    def forward(self, step):
        return {"match": super().forward(step)["match"] * (1 + self.average)}


class OwnImages(Good):
    def build(self, pair):
        super().build(pair)
        self.register_buffer("mean", torch.zeros(10))

    def forward(self, step):
        self.mean.copy_(step.teacher.logits.mean(0))
        return super().forward(step)


class ForeignGroup(Good):
    def parameter_groups(self):
        return [{"params": [nn.Parameter(torch.zeros(3))], "lr_scale": 0.1}]


FAULTS = [
    (Idle, "every_tap_is_read"),
    (Undeclared, "what_it_needs_is_declared"),
    (NeedsLabels, "what_it_needs_is_declared"),
    (Dependent, "it_works_without_the_teacher_that_it_does_not_require"),
    (Shipping, "what_it_ships_can_be_loaded_again"),
    (AverageInAnAttribute, "the_state_survives_a_restart"),
    (OwnImages, "processes_keep_the_same"),
    (ForeignGroup, "the_optimizer_sees_everything_that_is_trained"),
    (NotFinite, "terms_are_finite_and_teach_the_student"),
    (Detached, "terms_are_finite_and_teach_the_student"),
    (NotFinite, "a_transformer_can_teach_a_cnn"),
    (IdleConnector, "every_connector_is_trained"),
    (Unregistered, "the_optimizer_sees_everything_that_is_trained"),
    (Late, "the_optimizer_sees_everything_that_is_trained"),
    (TeacherInTraining, "the_teacher_stays_as_it_was"),
    (TeacherChanged, "the_teacher_stays_as_it_was"),
    (InPlace, "what_is_handed_over_stays_as_it_was"),
    (Relabelling, "what_is_handed_over_stays_as_it_was"),
    (NeverOff, "weight_zero_is_plain_training"),
    (SeedingNumPy, "the_random_states_are_left_alone"),
    (SeedingPython, "the_random_states_are_left_alone"),
    (Seeding, "the_random_states_are_left_alone"),
    (Keeping, "nothing_is_left_behind"),
    (Hooking, "nothing_is_left_behind"),
    (AcrossTheBatch, "a_batch_of_one_and_a_ragged_batch"),
    (HalfPrecision, "bf16_forwards"),
    (Counting, "the_state_survives_a_restart"),
    (Holding, "copies_are_independent"),
    (Lenient, "an_unknown_option_is_refused_with_the_nearest_name"),
    (Sourceless, "the_description_is_complete"),
    (Helpless, "the_description_is_complete"),
    (NeverNothing, "what_it_costs_when_there_is_nothing_left_to_learn"),
]


def contract_of(kind):
    return type("Contract", (DistillerContract,), {"method": kind, "at_equality": {"match": 0.0}})()


@pytest.mark.sample(12)
@pytest.mark.parametrize(("kind", "check"), FAULTS, ids=lambda value: getattr(value, "__name__", value))
def test_a_planted_fault_is_found(kind, check):
    with pytest.raises((AssertionError, AttributeError, KDError, RuntimeError)):
        getattr(contract_of(kind), f"test_{check}")()


def test_every_check_has_a_fault_that_it_finds():
    assert {f"test_{check}" for _, check in FAULTS} == set(CHECKS)


@pytest.mark.parametrize("check", [check for check in CHECKS if "nothing_left_to_learn" not in check])
def test_a_good_method_passes(check):
    getattr(contract_of(Good), check)()


class Plain(NeverNothing):
    def forward(self, step):
        return {"match": super().forward(step)["match"] - 0.5}


def test_a_known_value_of_no_term_is_refused():
    contract = contract_of(Plain)
    type(contract).at_equality = {"macth": 0.0}
    with pytest.raises(AssertionError, match="'macth', which is not a term; the terms are match"):
        contract.test_what_it_costs_when_there_is_nothing_left_to_learn()


def test_a_known_value_is_recognised():
    contract_of(Plain).test_what_it_costs_when_there_is_nothing_left_to_learn()


class LabelsAlone(Good):
    needs = ("labels",)
    serves = ("labels",)
    seen = None

    def forward(self, step):
        type(self).seen = step.y
        return {"match": super().forward(step)["match"] * step.y.max(1).values.mean()}


def test_a_method_is_tested_on_a_task_that_it_serves_or_on_the_one_that_is_named():
    assert contract_of(Good).bench().task == "classification"
    contract_of(LabelsAlone).test_what_it_needs_is_declared()
    assert LabelsAlone.seen.shape == (4, 10)
    assert set(LabelsAlone.seen.unique().tolist()) == {0.0, 1.0}
    contract = contract_of(Good)
    type(contract).task = "multilabel"
    assert contract.bench().batch(4).y.shape == (4, 10)
    contract.test_weight_zero_is_plain_training()


def test_a_method_given_as_an_object_is_answered_with_how_to_give_it():
    with pytest.raises(TypeError, match=r"method = RKD\(\.\.\.\) is an object: give the class, method = RKD"):
        Bench(RKD(), tiny_pair())
