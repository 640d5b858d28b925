import csv

import pytest

SMALL = ["--data", "digits@train=16@test=16", "--epochs", "1", "-o", "train.batch_size=8", "-o", "train.precision=fp32"]
PAIR = ["--teacher", "resnet14", "--student", "resnet8"]


def test_a_grid_is_trained_and_left_as_table_and_picture(kdengine, here):
    grids = ["--grid", "st.alpha=0.1,0.9", "--grid", "st.temperature=1,4"]
    said = kdengine("sweep", "--plugin", "st", *grids, *PAIR, *SMALL, "--out", "out", "--pictures", "png,svg")
    assert said.code == 0, said.err
    with open(here / "out" / "sweep.csv", encoding="utf-8") as file:
        header, *lines = csv.reader(file)
    assert header == ["st.alpha", "temperature=1", "temperature=4"]
    assert [line[0] for line in lines] == ["0.1", "0.9"]
    assert all(0 <= float(cell.rstrip("*")) <= 100 for line in lines for cell in line[1:])
    pictures = {file.name for file in (here / "out").iterdir() if file.suffix in (".png", ".svg", ".pdf")}
    assert pictures == {f"{name}.{kind}" for name in ("curves", "gains", "sweep") for kind in ("png", "svg")}
    assert kdengine("report", "out", "--sweep", "grid.svg").code == 0
    assert (here / "grid.svg").read_bytes() == (here / "out" / "sweep.svg").read_bytes()
    assert "temperature=4" in said.out


def test_a_dry_run_shows_the_combinations_and_the_units_and_leaves_no_trace(kdengine, here):
    grids = ["--grid", "st.alpha=0.1,0.9", "--grid", "st.temperature=1,4"]
    plan = ["sweep", "--plugin", "st", *grids, *PAIR, *SMALL, "--out", "out", "--dry-run"]
    cells = ["alpha=0.1,temperature=1", "alpha=0.1,temperature=4", "alpha=0.9,temperature=1", "alpha=0.9,temperature=4"]
    said = kdengine(*plan)
    assert said.code == 0, said.err
    assert [line.split()[0] for line in said.out.splitlines()[1:] if "=" in line.split()[0]] == cells
    assert "5 lanes; trials: 1. Nothing was trained." in said.out
    assert "units" not in said.out
    found = kdengine(*plan, "--on", "local", "-o", "local.workers=1", "--trials", "2", "--json").json
    assert [row["method"] for row in found["cells"]] == ["plain", *cells]
    assert [(unit["unit"], unit["lanes"]) for unit in found["units"]] == [
        ("trial-1", ["plain", *cells]),
        ("trial-2", ["plain", *cells]),
    ]
    assert list(here.iterdir()) == []


@pytest.mark.slow
def test_training_settings_make_lanes_that_differ(kdengine):
    grid = ["--grid", "train.lr=0.1,0.0001"]
    found = kdengine("sweep", "--plugin", "st", *grid, *PAIR, *SMALL, "--out", "out", "--json").json
    assert {row["method"] for row in found["cells"]} == {"plain", "lr=0.1", "lr=0.0001"}


def test_what_is_missing_or_cannot_be_swept_is_told(kdengine, here):
    (here / "compared").mkdir()
    (here / "compared" / "comparison.json").write_text('{"methods": ["st"]}')
    for arguments, said in (
        (["--grid", "st.alpha=1", *PAIR], "--plugin"),
        (["--plugin", "st", *PAIR], "--grid"),
        (["--plugin", "st", "--grid", "st.alpha=2", *PAIR, *SMALL], "alpha"),
        (["--plugin", "st", "--grid", "train.batch_size=2,4", *PAIR, *SMALL], "train.batch_size"),
        (["--plugin", "st", "--grid", "st.alpha=1", "--student", "resnet8"], "--teacher"),
        (["--resume", "nowhere"], "no comparison"),
        (["--resume", "compared"], "kdengine compare --resume compared"),
    ):
        found = kdengine("sweep", *arguments)
        assert found.code == 2, (arguments, found.err)
        assert said in found.err
