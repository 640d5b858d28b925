import pytest

from kdengine.storage.lane_place import LanePlace
from kdengine.storage.names import NOTE


@pytest.fixture
def comparison(tmp_path):
    folder = tmp_path / "study"
    for place in ("trial-2/rkd", "trial-1/resnet8/st", "other/resnet8/st"):
        (folder / place).mkdir(parents=True)
    (folder / NOTE).touch()
    return folder


def test_a_lane_knows_its_comparison_its_trial_and_of_several_students_its_own(comparison):
    assert LanePlace.of(comparison / "trial-2" / "rkd") == LanePlace(comparison, "trial-2")
    assert LanePlace.of(comparison / "trial-1" / "resnet8" / "st") == LanePlace(comparison, "trial-1", "resnet8")


def test_what_lies_elsewhere_is_no_lane(comparison):
    assert LanePlace.of(comparison / "other" / "resnet8" / "st") is None
    assert LanePlace.of(comparison) is None
    assert LanePlace.of(comparison.parents[-1]) is None
