import csv
import io
import json

import pytest


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
    assert "32 training and 32 test images" in markdown
    assert f"{result['student']['top1']:.2f}" in kdengine("report", folder).out
    facts = kdengine("report", folder, "--json").json
    assert facts["rows"][1][:2] == ["resnet8", "rkd"]


def test_unlike_runs_get_tables_of_their_own_unless_one_is_asked_for(run_folder, kdengine):
    slow = {"train": {"lr": 0.1}}
    folders = [run_folder("a", **slow), run_folder("b", [40.0], train={"lr": 0.5})]
    folders.append(run_folder("c", data="cifar10", fingerprint="g", **slow))
    out = kdengine("report", *folders).out
    heads = [line.partition(". ")[0] for line in out.splitlines() if "training and" in line]
    assert heads == ["digits, train.lr 0.1", "digits, train.lr 0.5", "cifar10, train.lr 0.1"]
    assert out.count("top-1 %") == 3 * 2
    tables = kdengine("report", *folders, "--json").json["tables"]
    assert [len(table["rows"]) for table in tables] == [2, 2, 2]
    rows = list(csv.DictReader(io.StringIO(kdengine("report", *folders, "--format", "csv").out)))
    assert [(row["table"], row["last top-1 %"]) for row in rows if row["method"] == "st"][1] == (heads[1], "40.00")
    mixed = kdengine("report", *folders, "--mixed", "--json").json
    assert len(mixed["rows"]) == 4


def test_a_run_has_its_gain_over_a_plain_run_with_the_same_settings_and_seed(run_folder, kdengine):
    folders = [
        run_folder("plain", [50.0], method="plain"),
        run_folder("st", [52.5]),
        run_folder("at", [40.0], method="at", seed=1),
    ]
    rows = list(csv.DictReader(io.StringIO(kdengine("report", *folders, "--format", "csv").out)))
    assert {row["method"]: row["gain over plain"] for row in rows} == {"plain": "", "teacher": "", "st": "+2.50", "at": ""}
    assert "gain over plain" not in kdengine("report", *folders[1:]).out


@pytest.mark.parametrize(("name", "start"), [("curves.pdf", b"%PDF"), ("curves.SVG", b"<?xml"), ("curves.png", b"\x89PNG")])
def test_the_curves_are_a_figure_in_the_format_of_its_name(name, start, run_folder, kdengine, here):
    said = kdengine("report", run_folder("a"), "--figure", name)
    assert said.code == 0, said.err
    assert (here / name).read_bytes().startswith(start)


def test_a_figure_of_another_kind_is_refused_before_anything_is_written(run_folder, kdengine, here):
    said = kdengine("report", run_folder("a"), "--figure", "curves.gif", "--html", "page.html")
    assert said.code == 2
    assert ".pdf, .svg or .png" in said.err
    assert not list(here.iterdir())


@pytest.mark.parametrize(("option", "reason"), [("gains", "no comparison in which"), ("sweep", "no sweep. Name a folder of")])
def test_a_picture_that_the_folder_has_not_is_refused(option, reason, run_folder, kdengine, here):
    said = kdengine("report", run_folder("a"), f"--{option}", "file.pdf", "--html", "page.html")
    assert said.code == 2
    assert reason in said.err
    assert not list(here.iterdir())


def test_the_gains_of_a_comparison_are_a_figure(run_folder, kdengine, here, tmp_path):
    for method, score in (("plain", 40.0), ("st", 42.0)):
        run_folder(f"all/trial-1/{method}", [score], method=method)
    (tmp_path / "all" / "comparison.json").write_text("{}")
    assert kdengine("report", tmp_path / "all", "--gains", "gains.svg").code == 0
    assert "gain in top-1, points" in (here / "gains.svg").read_text()


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


def test_a_picture_of_latency_needs_several_students_that_were_measured(kdengine, run_folder, tmp_path):
    folder = run_folder("run")
    said = kdengine("report", folder, "--tradeoff", tmp_path / "picture.svg")
    assert said.code == 2
    assert "no comparison of several students whose latency is known" in " ".join(said.err.split())
    assert "ends in .pdf, .svg or .png" in kdengine("report", folder, "--tradeoff", "picture.gif").err
    assert not (tmp_path / "picture.svg").exists()
