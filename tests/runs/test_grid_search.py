import pytest

from kdengine import SettingsError
from kdengine.runs.grid_search import cells, parse_axis

ALPHA, HEAT = parse_axis("st.alpha=0.1,0.9"), parse_axis(" st.temperature = 1, 4 ,10")


def test_a_grid_is_every_combination_as_a_lane():
    found = cells(["st"], [ALPHA, HEAT])
    assert len(found) == 6
    assert found[1].label == "alpha=0.1,temperature=4"
    assert found[1].options == {"st": {"alpha": 0.1, "temperature": 4}}
    assert found[1].train == {}


def test_training_settings_can_be_swept_and_values_are_toml_or_text():
    one, other = cells(["st"], [parse_axis("train.lr=0.1,0.01")])
    assert (one.train, other.train, one.options) == ({"lr": 0.1}, {"lr": 0.01}, {})
    assert cells(["st"], [parse_axis("st.soft_term=kl,ce")])[1].options == {"st": {"soft_term": "ce"}}


@pytest.mark.parametrize("text", ["alpha=1", "st.alpha", "st.alpha=", "=1", ".=1", "st.alpha=1,1"])
def test_what_is_no_grid_is_refused(text):
    with pytest.raises(SettingsError):
        parse_axis(text)


def test_a_list_is_one_value_of_a_grid():
    assert parse_axis("train.milestones=[0.3,0.6],[0.5]").values == ("[0.3,0.6]", "[0.5]")


def test_grids_for_two_parts_of_one_option_are_joined():
    (lane,) = cells(["st"], [parse_axis("st.a.x=1"), parse_axis("st.a.y=2")])
    assert lane.options == {"st": {"a": {"x": 1, "y": 2}}}


def test_more_combinations_than_can_be_lanes_are_refused_without_a_wait():
    axes = [parse_axis(f"st.{letter}=" + ",".join(map(str, range(50)))) for letter in "abcdefgh"]
    with pytest.raises(SettingsError, match="39062500000000 combinations, but a sweep allows at most 10000"):
        cells(["st"], axes)


def test_no_grid_or_one_option_twice_is_refused():
    with pytest.raises(SettingsError, match="--grid"):
        cells(["st"], [])
    with pytest.raises(SettingsError, match="same option"):
        cells(["st"], [ALPHA, ALPHA])
