import json

import pytest

from kdengine import SettingsError
from kdengine.report.heatmap import draw_heatmap
from kdengine.runfolder import RunFolder
from kdengine.settings import Settings
from kdengine.sweep import Grid, cells, parse_axis

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


def test_no_grid_or_one_option_twice_is_refused():
    with pytest.raises(SettingsError, match="--grid"):
        cells(["st"], [])
    with pytest.raises(SettingsError, match="same option"):
        cells(["st"], [ALPHA, ALPHA])


@pytest.fixture
def swept(tmp_path):
    """The folder of a sweep made by hand; one cell failed."""
    accuracies = {"plain": 60.0, "alpha=0.1,temperature=1": 61.0, "alpha=0.1,temperature=4": 62.0}
    accuracies |= {"alpha=0.1,temperature=10": None, "alpha=0.9,temperature=1": 59.0}
    accuracies |= {"alpha=0.9,temperature=4": 63.0, "alpha=0.9,temperature=10": 64.0}
    for label, top1 in accuracies.items():
        place = RunFolder(tmp_path / "trial-1" / label)
        facts = {"device_name": "cpu", "threads": 1, "precision": "fp32", "data": {"name": "digits"}}
        place.begin(Settings(student="resnet8"), facts)
        if top1 is None:
            place.write_json("failed.json", {"error": "nan", "epoch": 1})
            continue
        student = {"top1": top1, "best_top1": top1, "top5": 90.0, "epochs": 1, "parameters": 1, "training_parameters": 1}
        place.write_json("result.json", {"method": label, "teacher": {"name": "t", "top1": 70.0}, "student": student})
    axes = [{"name": axis.name, "values": list(axis.values)} for axis in (ALPHA, HEAT)]
    RunFolder(tmp_path).write_json("comparison.json", {"axes": axes})
    return tmp_path


def test_the_table_has_rows_and_columns_and_a_star_for_the_best_of_each_column(swept):
    table = Grid.of(swept).table()
    assert table.columns == ("st.alpha", "temperature=1", "temperature=4", "temperature=10")
    assert table.rows == (("0.1", "61.00*", "62.00", ""), ("0.9", "59.00", "63.00*", "64.00*"))
    assert "plain student 60.00 %, teacher 70.00 %" in table.caption


def test_the_picture_is_a_png_of_the_accuracies(swept, tmp_path):
    draw_heatmap(Grid.of(swept), tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_a_folder_without_a_sweep_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="no sweep"):
        Grid.of(tmp_path)
    (tmp_path / "comparison.json").write_text(json.dumps({"entries": []}))
    with pytest.raises(SettingsError, match="no sweep"):
        Grid.of(tmp_path)
