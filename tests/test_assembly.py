from dataclasses import replace

import pytest
import torch
from torch import nn

from kdengine import Distiller, ModelError, Pair, Registry, SettingsError, Stage, TapError
from kdengine.assembly import make_phases
from kdengine.models import ModelSource
from kdengine.pupil import Network, Pupil
from kdengine.selection import checked_settings, choose_distillers, resolved
from kdengine.settings import Settings


def network(name, seed=0):
    module = ModelSource(name, 10, (3, 32, 32), Registry()).create(seed)
    return Network.probed(name, module, (3, 32, 32), 10)


@pytest.fixture(scope="module")
def pupil():
    return Pupil(network("resnet8"), network("resnet14"), 10, 100, (3, 32, 32), lambda spec: nn.Identity())


class Staged(Distiller):
    """Has a stage as long as it is told."""

    name = "staged"
    task_weight = 0.5

    class Options(Distiller.Options):
        epochs: int | float = 2

    def stages(self):
        return [Stage("first", epochs=self.options.epochs)]

    def forward(self, step):
        return {}


class Mute(Staged):
    """Has a stage in which it reads nothing."""

    name = "mute"

    def taps_in(self, stage):
        return None


def phases(pupil, epochs, **distillers):
    return [(phase.stage.name, phase.epochs, phase.task_weight) for phase in make_phases(distillers, pupil, epochs)]


@pytest.mark.parametrize(
    ("length", "epochs", "expected"), [(3, 10, 3), (0.5, 5, 3), (1.0, 7, 7), (0.1, 30, 3), (0.55, 100, 55), (0.07, 100, 7)]
)
def test_a_share_of_the_epochs_is_rounded_up_and_a_number_is_taken_as_it_is(length, epochs, expected, pupil):
    assert phases(pupil, epochs, staged=Staged(epochs=length))[0] == ("first", expected, 1.0)


def test_the_stages_of_all_methods_come_in_their_order_and_the_joint_one_last(pupil):
    found = phases(pupil, 4, a=Staged(epochs=1), b=Staged(epochs=0), c=Staged(epochs=3))
    assert found == [("first", 1, 1.0), ("first", 3, 1.0), ("joint", 4, 0.125)]


def test_a_stage_in_which_nothing_is_read_is_an_error(pupil):
    with pytest.raises(SettingsError, match=r"stage 'first' but reads no taps in it"):
        phases(pupil, 4, mute=Mute())


def test_a_method_without_a_teacher_is_an_error(pupil):
    with pytest.raises(SettingsError, match="'staged' needs a teacher"):
        phases(replace(pupil, teacher=None), 4, staged=Staged())


def test_a_network_must_return_as_many_logits_as_there_are_classes():
    maps = nn.Conv2d(3, 10, 3)
    with pytest.raises(ModelError, match=r"'maps' returns \[2, 10, 30, 30\] .* \[2, 10\] is needed"):
        Network.probed("maps", maps, (3, 32, 32), 10)
    with pytest.raises(TapError, match="does not accept"):
        Network.probed("vectors", nn.Linear(7, 10), (3, 32, 32), 10)


def test_the_same_method_twice_is_told_apart_by_a_number():
    chosen = choose_distillers(["st", Staged(), "st", "st"], {"st-2": {"alpha": 0.5}}, Registry())
    assert list(chosen) == ["st", "staged", "st-2", "st-3"]
    assert [chosen[key].options.alpha for key in ("st", "st-2", "st-3")] == [0.9, 0.5, 0.9]


def test_the_faults_of_all_methods_are_told_at_once():
    options = {"st": {"temperature": 0}, "rkd": {"angel": 1}, "at": {"beta": 1}}
    with pytest.raises(SettingsError) as caught:
        choose_distillers(["st", "rkd"], options, Registry())
    assert all(piece in str(caught.value) for piece in ("st.temperature", "rkd.angel", "'at'"))


def test_an_unknown_method_is_told_beside_the_faults_of_the_settings():
    with pytest.raises(SettingsError) as caught:
        checked_settings({"student": "resnet8", "seed": -1, "methods": ["rdk"]}, ["rdk"], Registry())
    assert "seed = -1" in str(caught.value)
    assert "'rkd'" in str(caught.value)


@pytest.mark.parametrize("options", [5, {"st": 5}])
def test_options_of_the_wrong_shape_are_told(options):
    with pytest.raises(SettingsError, match="options"):
        checked_settings({"student": "resnet8", "methods": ["st"], "options": options}, ["st"], Registry())


def test_resolved_settings_name_every_option_that_is_in_use():
    chosen = choose_distillers(["rkd", Staged(epochs=3)], {"rkd": {"preset": "bhheo", "angle": 1}}, Registry())
    found = resolved(Settings(student="resnet8"), chosen).options
    assert found["staged"] == {"weight": 1.0, "clip_to_task": False, "epochs": 3}
    assert (found["rkd"]["angle"], found["rkd"]["distance"], found["rkd"]["taps"]) == (1.0, 100.0, ["logits"])
    again = choose_distillers(["rkd"], {"rkd": found["rkd"]}, Registry())
    assert again["rkd"].options == chosen["rkd"].options


class Curious(Distiller):
    """Keeps what it is told when it builds."""

    name = "curious"
    taps = ("stage2", "embedding")

    def build(self, pair: Pair):
        self.pair = pair
        self.drawn = torch.rand(3)

    def forward(self, step):
        return {}


def test_a_method_builds_from_shapes_and_draws_by_the_seed_alone(pupil):
    from kdengine.assembly import make_lane
    from kdengine.runtime import Runtime

    drawn = []
    for seed in (0, 0, 1):
        curious = Curious()
        torch.rand(1)
        before = torch.get_rng_state()
        make_lane("x", pupil, {"curious": curious}, Settings(student="resnet8", seed=seed), Runtime("cpu", "fp32"), 1)
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
