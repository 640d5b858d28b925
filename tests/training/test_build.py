from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from torch import nn

from kdengine import Distiller, Engine, Pair, Phase, Registry, SettingsError, StepTransform, TrainingError
from kdengine.config.settings import Settings
from kdengine.networks.models import ModelSource
from kdengine.networks.network import LaneContext, Network
from kdengine.tasks import Classification
from kdengine.training.build import make_phases


def network(name, seed=0):
    module = ModelSource(name, {"num_classes": 10}, (3, 32, 32), Registry()).create(seed)
    return Network.probed(name, module, (3, 32, 32), Classification(10))


@pytest.fixture(scope="module")
def context():
    return LaneContext(
        network("resnet8"), (network("resnet14"),), Classification(10), 100, (3, 32, 32), lambda spec: nn.Identity()
    )


class Phased(Distiller):
    """Has a stage as long as it is told."""

    name = "staged"
    task_weight = 0.5

    class Options(Distiller.Options):
        epochs: int | float = 2

    def phases(self):
        return [Phase("first", epochs=self.options.epochs)]

    def forward(self, step):
        return {}


class Mute(Phased):
    """Has a stage in which it reads nothing."""

    name = "mute"

    def taps_in(self, phase):
        return None


def phases(context, epochs, **distillers):
    return [(phase.name, phase.epochs, phase.task_weight) for phase in make_phases(distillers, context, epochs)]


@pytest.mark.parametrize(
    ("length", "epochs", "expected"), [(3, 10, 3), (0.5, 5, 3), (1.0, 7, 7), (0.1, 30, 3), (0.55, 100, 55), (0.07, 100, 7)]
)
def test_a_share_of_the_epochs_is_rounded_up_and_a_number_is_taken_as_it_is(length, epochs, expected, context):
    assert phases(context, epochs, staged=Phased(epochs=length))[0] == ("first", expected, 1.0)


def test_the_stages_of_all_methods_come_in_their_order_and_the_joint_one_last(context):
    found = phases(context, 4, a=Phased(epochs=1), b=Phased(epochs=0), c=Phased(epochs=3))
    assert found == [("first", 1, 1.0), ("first", 3, 1.0), ("joint", 4, 0.125)]


def test_a_stage_in_which_nothing_is_read_is_an_error(context):
    with pytest.raises(SettingsError, match=r"phase 'first' but reads no taps in it"):
        phases(context, 4, mute=Mute())


def test_a_method_without_a_teacher_is_an_error(context):
    with pytest.raises(SettingsError, match="'staged' needs a teacher"):
        phases(replace(context, teachers=()), 4, staged=Phased())


class Curious(Distiller):
    """Keeps what it is told when it builds."""

    name = "curious"
    taps = ("stage2", "embedding")

    def build(self, pair: Pair):
        self.pair = pair
        self.drawn = torch.rand(3)

    def forward(self, step):
        return {}


def test_a_method_builds_from_shapes_and_draws_by_the_seed_alone(context):
    from kdengine.training.build import make_lane
    from kdengine.training.runtime import Runtime

    drawn = []
    for seed in (0, 0, 1):
        curious = Curious()
        torch.rand(1)
        before = torch.get_rng_state()
        make_lane("x", context, {"curious": curious}, Settings(student="resnet8", seed=seed), Runtime("cpu", "fp32"), 1)
        assert torch.equal(torch.get_rng_state(), before)
        drawn.append(curious.drawn.tolist())
    assert drawn[0] == drawn[1] != drawn[2]
    pair = curious.pair
    assert pair.student["stage2"].shape == (2, 32, 16, 16)
    assert pair.teacher["embedding"].shape == (2, 64)
    assert pair.student["stage2"].device.type == "meta"
    assert (pair.num_classes, pair.num_samples) == (10, 100)
    assert [tap.name for tap in pair.pairs] == ["stage2", "embedding"]
    assert pair.teacher.logits.shape == (2, 10)
    assert "stage2" in pair.rectified


class Doubled(StepTransform):
    """Doubles the logits of classes."""

    name = "doubled"

    def transform(self, step):
        return step.with_logits(lambda logits: 2 * logits, lambda logits: 2 * logits)


class AnyOutputs(Distiller):
    """Is defined for labels too."""

    name = "any"
    serves = ("classes", "labels")

    def forward(self, step):
        return {"loss": (step.student.logits - step.teacher.logits).square().mean()}


def test_a_transform_too_is_refused_outputs_that_it_is_not_defined_for(tmp_path):
    def plan(*methods):
        return Engine("resnet8", "resnet8", methods, "digit-scenes@train=8@test=4", out=tmp_path / "run").plan()

    assert plan(AnyOutputs())
    with pytest.raises(SettingsError, match=r"doubled is defined for classes, but .* are labels\. Leave doubled out\.$"):
        plan(Doubled(), AnyOutputs())


class Odd(Distiller):
    """Declares a phase as a pair, and ships nothing."""

    name = "odd"
    given: ClassVar[list] = [("hint", 3)]

    def phases(self):
        return self.given

    def forward(self, step):
        return {"loss": (step.student.logits - step.teacher.logits).square().mean()}

    def deploy(self, student):
        return None


def test_phases_of_another_kind_and_a_network_that_is_none_are_named(monkeypatch, tmp_path):
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    engine = Engine(teacher, "resnet8", [Odd()], "digits@train=32@test=16", epochs=1, out=tmp_path / "run")
    with pytest.raises(SettingsError, match=r"odd\.phases\(\) returned \('hint', 3\)"):
        engine.plan()
    monkeypatch.setattr(Odd, "given", [])
    with pytest.raises(TrainingError, match="odd: deploy must return the network to ship, got NoneType"):
        engine.fit()
