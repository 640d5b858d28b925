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
    assert "plain" in kdengine("report", folder, "other", "--mixed").out


def test_a_folder_without_a_finished_run_is_told(kdengine, here):
    said = kdengine("report", here)
    assert said.code == 2
    assert "no finished run" in said.err
