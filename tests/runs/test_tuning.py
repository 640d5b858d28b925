import pytest

from kdengine import SettingsError, TrainingError
from kdengine.config.settings import Settings, TrainSettings
from kdengine.runs.lane_specs import LaneSpec
from kdengine.runs.tuning import Probes, Tuning
from kdengine.storage.runfolder import RunFolder
from kdengine.storage.scores import CLASSIFICATION

LANES = [LaneSpec("plain", []), LaneSpec("st", ["st"], train={"nesterov": False})]


def settings(**train):
    own = {"epochs": 40, "lr": 0.1, **train}
    given = {"teacher_train": {"epochs": 7}, "options": {"st": {"alpha": 0.5}}}
    return Settings(student="resnet8", teacher="resnet14", train=TrainSettings(**own), **given)


@pytest.mark.parametrize(
    ("value", "tuning"),
    [
        (None, None),
        (False, None),
        (True, Tuning()),
        (3, Tuning(count=3)),
        ([0.1, 0.01], Tuning((0.1, 0.01))),
        ("5", Tuning()),
        ("0.01, 3e-2", Tuning((0.01, 0.03))),
        ("each", Tuning(each=True)),
        ("each,7", Tuning(count=7, each=True)),
        ("each,0.01,0.03", Tuning((0.01, 0.03), each=True)),
        (Tuning(each=True), Tuning(each=True)),
    ],
)
def test_it_is_read_from_what_people_write_and_reads_itself_again(value, tuning):
    assert Tuning.of(value) == tuning
    if tuning is not None:
        assert Tuning.of(tuning.text) == tuning


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("fast", "neither a number of learning rates nor a list"),
        ("", "neither"),
        ("1", "from 2 to 20"),
        (0, "from 2 to 20"),
        ("99", "from 2 to 20"),
        ("0.05", "at least two"),
        ("0.1,0.1", "each of them once"),
        ("0.1,-1", "-1: give rates above 0"),
        ("0.1,nan", "nan: give rates above 0"),
        (0.05, "give True, a number of rates, or a list"),
        (["a", "b"], "give True, a number of rates, or a list"),
    ],
)
def test_anything_else_is_refused_with_what_is_allowed(value, said):
    with pytest.raises(SettingsError, match=said):
        Tuning.of(value)


@pytest.mark.parametrize(
    ("tuning", "default", "rates"),
    [
        (Tuning(), 0.1, (0.01, 0.032, 0.1, 0.32, 1.0)),
        (Tuning(count=2), 0.1, (0.032, 0.1)),
        (Tuning(count=3), 0.0125, (0.004, 0.0125, 0.04)),
        (Tuning((0.5, 0.1)), 0.3, (0.1, 0.5)),
    ],
)
def test_rates_are_those_given_or_a_factor_of_three_apart_around_the_default(tuning, default, rates):
    assert tuning.around(default) == rates


def test_a_probe_is_a_short_training_of_the_plain_student_on_a_part_of_the_training_images():
    probes = Probes(Tuning(count=2), LANES, settings(warmup_epochs=8, patience=3))
    assert [(lane.label, lane.plugins, lane.train) for lane in probes.lanes] == [
        ("plain@lr=0.032", [], {"lr": 0.032}),
        ("plain@lr=0.1", [], {"lr": 0.1}),
    ]
    short = probes.settings
    assert (short.train.epochs, short.train.warmup_epochs, short.train.validation) == (10, 2, 0.1)
    assert short.train.patience is None
    assert (short.teacher, short.options) == (None, {})
    assert Probes(Tuning(), LANES, settings(validation=0.25)).settings.train.validation == 0.25
    assert [Probes(Tuning(), LANES, settings(epochs=count)).epochs for count in (1, 2, 6, 12)] == [1, 2, 2, 3]


def test_for_every_lane_the_probes_have_the_teacher_of_the_comparison():
    probes = Probes(Tuning((0.1, 0.01), each=True), LANES, settings())
    assert [lane.label for lane in probes.lanes] == ["plain@lr=0.01", "plain@lr=0.1", "st@lr=0.01", "st@lr=0.1"]
    assert probes.lanes[-1].train == {"nesterov": False, "lr": 0.1}
    assert probes.settings.teacher_training == settings().teacher_training
    assert probes.settings.options == {"st": {"alpha": 0.5}}


@pytest.fixture
def probed(tmp_path):
    """Writes the folders of finished probes by hand, each with its last held-out accuracy and loss; None for a failed one."""

    def write(lane, scores):
        for rate, measured in scores.items():
            files = RunFolder(tmp_path / f"{lane}@lr={rate:g}")
            files.begin(settings(), {})
            if measured is None:
                files.write_json("failed.json", {"error": "nan", "epoch": 1})
            else:
                row = {
                    "lane": lane,
                    "epoch": 1,
                    "val_top1": measured[0],
                    "val_loss": measured[1],
                    "test_top1": 100 - measured[0],
                }
                files.write_rows([row])
                files.write_json("result.json", {"student": {}})
            files.free()
        return tmp_path

    return write


def test_the_best_held_out_score_is_chosen_the_loss_breaks_ties_and_what_failed_is_not(probed):
    folder = probed("plain", {0.01: (80.0, 0.9), 0.1: (80.0, 0.5), 0.3: (70.0, 0.1), 1.0: None})
    probes = Probes(Tuning((0.01, 0.1, 0.3, 1.0)), LANES, settings(validation=0.2))
    found = probes.outcome(folder, CLASSIFICATION)
    assert (found["lr"], found["epochs"], found["validation"]) == (0.1, 10, 0.2)
    assert [(probe["lr"], probe.get("val_top1"), probe["chosen"]) for probe in found["probes"]] == [
        (0.01, 80.0, False),
        (0.1, 80.0, True),
        (0.3, 70.0, False),
        (1.0, None, False),
    ]
    tuned = probes.settings_at({**found, "lr": 0.3})
    assert tuned.train == settings(validation=0.2, lr=0.3).train
    assert tuned.teacher_training == settings(validation=0.2).teacher_training  # the teacher keeps its rate
    assert probes.lanes_at(found) == LANES


def test_every_lane_can_have_a_rate_of_its_own(probed):
    probed("plain", {0.01: (80.0, 1.0), 0.1: (60.0, 1.0)})
    folder = probed("st", {0.01: (70.0, 1.0), 0.1: (90.0, 1.0)})
    probes = Probes(Tuning((0.01, 0.1), each=True), LANES, settings())
    found = probes.outcome(folder, CLASSIFICATION)
    assert found["lr"] == {"plain": 0.01, "st": 0.1}
    assert [lane.train for lane in probes.lanes_at(found)] == [{"lr": 0.01}, {"nesterov": False, "lr": 0.1}]
    assert probes.settings_at(found) == settings()


def test_if_every_probe_failed_there_is_no_rate_to_choose(probed):
    folder = probed("plain", {0.1: None, 1.0: None})
    with pytest.raises(TrainingError, match=r"probed for plain failed \(0.1, 1\).*lower rates with --tune-lr"):
        Probes(Tuning((0.1, 1.0)), LANES, settings()).outcome(folder, CLASSIFICATION)


def test_a_lane_whose_probes_all_failed_keeps_its_rate_and_the_others_go_on(probed):
    """A method that cannot run on the pair must not stop the comparison of all methods."""
    probed("plain", {0.01: (80.0, 1.0), 0.1: (60.0, 1.0)})
    folder = probed("st", {0.01: None, 0.1: None})
    probes = Probes(Tuning((0.01, 0.1), each=True), LANES, settings())
    found = probes.outcome(folder, CLASSIFICATION)
    assert found["lr"] == {"plain": 0.01}
    assert [probe["chosen"] for probe in found["probes"]] == [True, False, False, False]
    assert [lane.train for lane in probes.lanes_at(found)] == [{"lr": 0.01}, {"nesterov": False}]
