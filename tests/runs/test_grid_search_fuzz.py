"""Whatever is written for a grid is an axis, or is refused with a reason."""

from hypothesis import given
from hypothesis import strategies as st

from kdengine import SettingsError
from kdengine.comparison import LaneSpec
from kdengine.runs.grid_search import cells, parse_axis
from kdengine.storage.axis import Axis

PIECES = st.sampled_from(
    ["st", "train", ".", "alpha", "=", ",", "0.1", "0.5", "1", "[1,2]", "[", "]", " ", "'a,b'", "9" * 5000, "/"]
)
GRIDS = st.text(max_size=12) | st.lists(PIECES, max_size=8).map("".join) | st.lists(PIECES, max_size=5).map("st.x={}".format)


@given(texts=st.lists(GRIDS, min_size=1, max_size=3))
def test_any_grids_are_lanes_or_are_refused(answered, texts):
    axes = [answered(parse_axis, text) for text in texts]
    assert all(isinstance(axis, Axis | SettingsError) for axis in axes)
    good = [axis for axis in axes if isinstance(axis, Axis)]
    lanes = answered(cells, ["st"], good)
    if not isinstance(lanes, SettingsError):
        assert all(isinstance(lane, LaneSpec) and "/" not in lane.label for lane in lanes)
        assert len({lane.label for lane in lanes}) == len(lanes)


@given(values=st.lists(st.text("abc123.", min_size=1), min_size=1, max_size=5, unique=True))
def test_every_value_of_a_grid_is_tried(values):
    assert parse_axis(f"st.x={','.join(values)}").values == tuple(values)
