import pytest

from kdengine.shipping.provenance import trials_of
from kdengine.storage.runfolder import RunFolder


@pytest.mark.parametrize("student", ["", "resnet8"])
def test_the_trials_of_a_lane_are_those_of_its_own_student(student, tmp_path):
    (tmp_path / "comparison.json").touch()
    for seed, label in ((0, student), (1, student), (2, "other")):
        place = tmp_path / f"trial-{seed + 1}" / label / "st"
        place.mkdir(parents=True)
        RunFolder(place).write_json("result.json", {"student": {"top1": 50.0 + seed}, "settings": {"seed": seed}})
    folder = tmp_path / "trial-2" / student / "st"
    found = trials_of(folder, RunFolder(folder).result(), "top1")
    assert [(trial.seed, trial.last) for trial in found] == [(0, 50.0), (1, 51.0)]
