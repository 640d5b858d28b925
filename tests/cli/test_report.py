import csv
import io
import json


def test_teacher_and_student_stand_in_one_table_in_every_format(finished, kdengine):
    _, folder = finished
    result = json.loads((folder / "result.json").read_text())
    rows = list(csv.DictReader(io.StringIO(kdengine("report", folder, "--format", "csv").out)))
    assert [row["network"] for row in rows] == ["timm:resnet14", "resnet8"]
    assert [row["method"] for row in rows] == ["teacher", "rkd"]
    for row, role in zip(rows, ("teacher", "student"), strict=True):
        assert row["last top-1 %"] == f"{result[role]['top1']:.2f}"
        assert row["best top-1 %"] == f"{result[role]['best_top1']:.2f}"
    markdown = kdengine("report", folder, "--format", "markdown").out
    assert f"| resnet8 | rkd | 0 | 2 | {result['student']['top1']:.2f} |" in markdown
    assert "128 training and 64 test images" in markdown
    assert f"{result['student']['top1']:.2f}" in kdengine("report", folder).out
    facts = kdengine("report", folder, "--json").json
    assert facts["rows"][1][:2] == ["resnet8", "rkd"]


def test_runs_on_different_data_are_not_mixed_unless_that_is_asked_for(finished, kdengine, small):
    _, folder = finished
    kdengine("train", "--model", "resnet8", *small, "--epochs", 1, "--data", "digits@train=64@test=32", "--out", "other")
    said = kdengine("report", folder, "other")
    assert (said.code, said.out) == (2, "")
    assert "--mixed" in said.err
    assert "different data: digits@train=128@test=64" in said.err
    assert "plain" in kdengine("report", folder, "other", "--mixed").out


def test_a_folder_without_a_run_is_told(kdengine, here):
    said = kdengine("report", here)
    assert said.code == 2
    assert "holds no run" in said.err


def test_all_runs_below_a_folder_are_told_whatever_became_of_them(run_folder, kdengine, tmp_path):
    run_folder("all/b", method="at", finished=False)
    run_folder("all/a")
    run_folder("all/c", [10.0], method="sp", failed="the loss is no longer finite")
    rows = list(csv.DictReader(io.StringIO(kdengine("report", tmp_path / "all", "--format", "csv").out)))
    assert [(row["method"], row["epochs"], row["state"]) for row in rows] == [
        ("teacher", "", ""),
        ("st", "2", "finished"),
        ("at", "2", "unfinished"),
        ("sp", "1", "failed: the loss is no longer finite"),
    ]


def test_a_page_and_a_picture_are_written_beside_the_table(finished, kdengine, here):
    _, folder = finished
    said = kdengine("report", folder, "--html", "report.html", "--png", "curves.png", "--json")
    assert said.json["rows"][1][1] == "rkd"
    assert "Wrote report.html" in said.err
    assert "rkd.distance" in (here / "report.html").read_text()
    assert (here / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_runs_that_would_mislead_write_nothing_unless_that_is_asked_for(run_folder, kdengine, here):
    folders = [run_folder("a"), run_folder("b", train={"lr": 0.5})]
    said = kdengine("report", *folders, "--html", "report.html")
    assert (said.code, (here / "report.html").exists()) == (2, False)
    assert "different train.lr: 0.1" in said.err
    assert kdengine("report", *folders, "--html", "report.html", "--mixed").code == 0
    assert "different train.lr: 0.1" in (here / "report.html").read_text()


def test_a_file_that_cannot_be_written_is_told(run_folder, kdengine):
    for option in ("--html", "--png"):
        said = kdengine("report", run_folder(f"a{option}"), option, "missing/file")
        assert said.code == 2
        assert "'missing/file' cannot be written" in said.err


def test_a_comparison_prints_its_leaderboard(run_folder, kdengine, tmp_path):
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "comparison.json").write_text("{}")
    run_folder("all/trial-1/plain", [20.0], method="plain")
    run_folder("all/trial-1/st", [23.0])
    rows = list(csv.DictReader(io.StringIO(kdengine("report", tmp_path / "all", "--format", "csv").out)))
    assert [row["method"] for row in rows] == ["teacher resnet32", "st", "plain"]
    assert rows[1]["gain over plain"].startswith("+3.00")
