import json
import re

import pytest

from kdengine import SettingsError
from kdengine.config.settings import Settings
from kdengine.report.grid import Grid
from kdengine.report.heatmap import draw_heatmap, draw_sweep
from kdengine.report.page import write_page
from kdengine.runs.grid_search import parse_axis
from kdengine.storage.runfolder import RunFolder

ALPHA, HEAT = parse_axis("st.alpha=0.1,0.9"), parse_axis("st.temperature=1,4,10")


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
        student = {
            "name": "resnet8",
            "top1": top1,
            "best_top1": top1,
            "top5": 90.0,
            "epochs": 1,
            "parameters": 1,
            "training_parameters": 1,
        }
        place.write_json("result.json", {"method": label, "teacher": {"name": "t", "top1": 70.0}, "student": student})
    axes = [{"name": axis.name, "values": list(axis.values)} for axis in (ALPHA, HEAT)]
    RunFolder(tmp_path).write_json("comparison.json", {"axes": axes})
    return tmp_path


def test_the_table_has_rows_and_columns_and_a_star_for_the_best_of_each_column(swept):
    table = Grid.of(swept).table()
    assert table.columns == ("st.alpha", "temperature=1", "temperature=4", "temperature=10")
    assert table.rows == (("0.1", "61.00*", "62.00", ""), ("0.9", "59.00", "63.00*", "64.00*"))
    assert "plain student 60.00 %, teacher 70.00 %" in table.caption


def test_the_picture_has_a_cell_for_every_score_the_best_deepest_and_bold(swept, tmp_path):
    (axes,) = draw_sweep([swept]).axes
    texts = {text.get_text(): text for text in axes.texts}
    assert list(texts) == ["61.00", "62.00", "", "59.00", "63.00", "64.00"]
    assert [text for text in texts if texts[text].get_fontweight() == "bold"] == ["64.00"]
    cells = dict(zip(texts, axes.patches, strict=True))
    blue = {text: 1 - cell.get_facecolor()[0] for text, cell in cells.items()}
    assert sorted((text for text in blue if text), key=blue.get) == ["59.00", "61.00", "62.00", "63.00", "64.00"]
    assert blue["59.00"] == blue[""] == 0
    assert (axes.get_title(loc="left"), axes.get_xlabel(), axes.get_ylabel()) == (
        "Last test top-1, %",
        "st.temperature",
        "st.alpha",
    )
    assert draw_sweep([swept / "trial-1" / "plain"]) is None


def test_the_page_of_a_sweep_shows_the_grid_with_the_best_cell_deepest(swept, tmp_path):
    write_page(tmp_path / "page.html", [swept])
    text = (tmp_path / "page.html").read_text()
    cells = re.findall(r"<td([^>]*)>(?:<b>)?([0-9.]*)", text[text.index("<h2>Grid") : text.index("<h2>Results")])
    depths = {number: int(re.search(r"--line-1\) (\d+)%", style)[1]) for style, number in cells if number}
    assert list(depths) == ["61.00", "62.00", "59.00", "63.00", "64.00"]  # row by row; the failed cell is empty
    assert sorted(depths, key=depths.get) == sorted(depths, key=float)
    assert depths["59.00"] == 0
    assert "<b>64.00</b>" in text


def test_a_page_of_no_sweep_has_no_grid(swept, tmp_path):
    write_page(tmp_path / "page.html", [swept / "trial-1" / "plain"])
    assert "<h2>Grid" not in (tmp_path / "page.html").read_text()


def test_a_folder_without_a_sweep_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="no sweep"):
        Grid.of(tmp_path)
    (tmp_path / "comparison.json").write_text(json.dumps({"entries": []}))
    with pytest.raises(SettingsError, match="no sweep"):
        Grid.of(tmp_path)


def test_where_a_low_score_is_better_the_star_and_the_deepest_cell_are_the_lowest(run_folder, depth, tmp_path):
    folder = tmp_path / "sweep"
    for alpha, score in (("0.1", 0.5), ("0.9", 0.25)):
        run_folder(f"sweep/trial-1/alpha={alpha}", [score], method=f"alpha={alpha}", task=depth)
    RunFolder(folder).write_json("comparison.json", {"axes": [{"name": "st.alpha", "values": ["0.1", "0.9"]}]})
    grid = Grid.of(folder)
    assert grid.table().columns == ("alpha=0.1", "alpha=0.9")
    assert Grid.of(folder).table().rows == (("0.5000*", "0.2500*"),)  # each is the best of its column
    assert grid.table().caption.startswith("Last RMSE, the best of each column with a star; teacher 70.0000. ")
    write_page(tmp_path / "page.html", [folder])
    page = (tmp_path / "page.html").read_text()
    cells = re.findall(r"--line-1\) (\d+)%[^>]*>([^/]+)<", page[page.index("<h2>Grid") : page.index("<h2>Results")])
    assert cells == [("0", "0.5000"), ("55", "<b>0.2500")]
    assert "Last RMSE on the test images; an empty cell" in page
    (axes,) = draw_heatmap(grid).axes
    assert [text.get_fontweight() for text in axes.texts] == ["normal", "bold"]
    assert [cell.get_facecolor()[0] == 1 for cell in axes.patches] == [True, False]


def test_the_lowest_of_a_column_has_the_star_where_low_is_better(run_folder, depth, tmp_path):
    axes = [{"name": "st.alpha", "values": ["0.1", "0.9"]}, {"name": "st.temperature", "values": ["4"]}]
    for alpha, score in (("0.1", 0.5), ("0.9", 0.25)):
        label = f"alpha={alpha},temperature=4"
        run_folder(f"sweep/trial-1/{label}", [score], method=label, task=depth)
    RunFolder(tmp_path / "sweep").write_json("comparison.json", {"axes": axes})
    assert Grid.of(tmp_path / "sweep").table().rows == (("0.1", "0.5000"), ("0.9", "0.2500*"))


def test_csv_has_no_stars_and_markdown_has_them(swept):
    table = Grid.of(swept).table()
    assert "*" not in table.to_csv()
    assert table.to_csv().splitlines()[1:] == ["0.1,61.00,62.00,", "0.9,59.00,63.00,64.00"]
    assert "| 61.00* |" in table.to_markdown()
