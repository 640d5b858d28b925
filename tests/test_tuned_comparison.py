import json

import pytest
import torch
from safetensors.torch import load_file

from kdengine import Comparison, Engine, Registry, SettingsError, hookimpl
from kdengine.networks.models import ModelSource
from kdengine.storage.runfolder import RunFolder

FAST = {"precision": "fp32", "device": "cpu", "batch_size": 64, "epochs": 2}
DATA = "digits@train=192@test=64"
RATES = (1e-9, 0.02)


def teacher():
    return ModelSource("cnn2", {"num_classes": 10}, (3, 32, 32), Registry()).create(5)


def compare(folder, tune_lr=RATES, **more):
    return Comparison(teacher(), "cnn2", ["st"], DATA, out=folder, tune_lr=tune_lr, **{**FAST, **more})


def lr_of(folder):
    return RunFolder(folder).settings().train.lr


class Stopping:
    """Interrupts when a lane has finished its first epoch; keeps what was trained."""

    def __init__(self, lane):
        self.lane, self.trained = lane, []

    @hookimpl
    def kdengine_after_epoch(self, run, record):
        self.trained.append((run.lane.name, record["epoch"]))
        if self.trained[-1] == (self.lane, 1):
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    comparison = compare(tmp_path_factory.mktemp("tuned") / "out")
    return comparison, comparison.fit()


def test_all_lanes_are_trained_at_the_rate_that_is_best_for_the_plain_student(tuned):
    comparison, board = tuned
    note = json.loads((comparison.folder / "comparison.json").read_text())
    assert (comparison.tuned["lr"], note["tuned"], note["settings"]["train"]["lr"]) == (0.02, comparison.tuned, 0.02)
    assert [lr_of(comparison.folder / "trial-1" / lane) for lane in ("plain", "st")] == [0.02, 0.02]
    assert {row["method"] for row in board.rows} == {"plain", "st"}  # the probes are no lanes


def test_probes_are_judged_on_training_images_and_none_of_them_is_a_test_image(tuned):
    comparison, _ = tuned
    probe = RunFolder(comparison.folder / "tuning" / "trial-1" / "plain@lr=0.02")
    data = probe.result()["data"]
    assert (data["train_images"], data["validation_images"]) == (173, 19)
    assert comparison.tuned["probes"][1]["val_top1"] == probe.metrics()[-1]["val_top1"]
    lane = RunFolder(comparison.folder / "trial-1" / "plain")
    assert lane.result()["data"]["train_images"] == 192  # the lanes train on all of them


def test_a_tuned_lane_is_the_same_run_as_with_that_rate_given(tuned, tmp_path):
    comparison, _ = tuned
    Engine(None, "cnn2", data=DATA, out=tmp_path / "alone", lr=0.02, **FAST).fit()
    one, other = (load_file(f / "student.safetensors") for f in (tmp_path / "alone", comparison.folder / "trial-1" / "plain"))
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(("stopped", "again"), [("plain@lr=0.02", ["plain@lr=0.02"]), ("st", [])])
def test_a_resumed_comparison_goes_on_where_it_was_and_probes_nothing_twice(tuned, tmp_path, stopped, again):
    with pytest.raises(KeyboardInterrupt):
        compare(tmp_path / "out", observers=[Stopping(stopped)]).fit()
    rest = Stopping("nothing")
    resumed = Comparison.resume(tmp_path / "out", modules={"teacher": teacher()}, observers=[rest])
    resumed.fit()
    assert resumed.tuned == tuned[0].tuned
    assert sorted({lane for lane, _ in rest.trained if "@" in lane} - {"plain@lr=1e-09"}) == again
    assert ("st", 2) in rest.trained
    one, other = (load_file(f / "trial-1" / "st" / "student.safetensors") for f in (tmp_path / "out", tuned[0].folder))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_every_lane_can_probe_for_itself(tmp_path):
    comparison = compare(tmp_path / "out", "each,1e-9,0.02", epochs=1)
    comparison.fit()
    assert set(comparison.tuned["lr"]) == {"plain", "st"}
    for lane, rate in comparison.tuned["lr"].items():
        assert lr_of(tmp_path / "out" / "trial-1" / lane) == rate
    assert len(list((tmp_path / "out" / "tuning" / "trial-1").iterdir())) == 4


def test_no_image_can_be_held_out_of_loaders_of_ones_own(tmp_path):
    images = [(torch.rand(8, 3, 32, 32), torch.arange(8))]
    with pytest.raises(SettingsError, match="cannot hold out images of your own loaders"):
        compare(tmp_path / "out").fit(images, images)
    assert not (tmp_path / "out").exists()
