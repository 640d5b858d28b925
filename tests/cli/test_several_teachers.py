"""Several teachers from the command line to the reports."""

import json

import pytest

from kdengine.cli.options import values_from
from kdengine.config.settings import Settings

PAIR = ["--teacher", "resnet8", "--teacher", "resnet14", "--student", "resnet8"]
TIMES = ("seconds", "images_per_second")


def rows(folder):
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in TIMES} for row in found]


def test_repeated_flags_name_the_teachers_and_their_weights_in_order():
    values = values_from(student="s", teacher=("a", "b", "c"), teacher_weights=("none", "b.pt"))
    assert Settings.checked(values).weights_of_teachers == (None, "b.pt", None)
    assert Settings.checked(values_from(student="s", teacher=("a",))).teachers == ("a",)
    assert "teacher" not in values_from(student="s", teacher=())


def test_flags_replace_all_teachers_of_a_file(here):
    text = 'student = "s"\nteacher = "a"\nfurther_teachers = ["b"]\nfurther_teacher_weights = ["b.pt"]\n'
    (here / "run.toml").write_text(text)
    assert Settings.checked(values_from("run.toml")).teachers == ("a", "b")
    alone = Settings.checked(values_from("run.toml", teacher=("c",)))
    assert (alone.teachers, alone.weights_of_teachers) == (("c",), (None,))
    more = Settings.checked(values_from("run.toml", assignments=["further_teachers=x,y"]))
    assert more.teachers == ("a", "x", "y")


def test_code_that_a_further_teacher_names_needs_trust(here, kdengine):
    (here / "run.toml").write_text('student = "resnet8"\nteacher = "resnet8"\nfurther_teachers = ["python:evil:f"]\n')
    said = kdengine("run", "run.toml", "--plugin", "st")
    assert said.code != 0
    assert "further_teachers = 'python:evil:f'" in " ".join(said.err.split())


def test_weights_that_are_missing_are_named_with_their_flag(kdengine, small):
    said = kdengine("run", "--plugin", "st", *PAIR, "--teacher-weights", "none", "--teacher-weights", "gone.pt", *small)
    assert said.code != 0
    text = " ".join(said.err.split())
    assert "no weights file 'gone.pt'" in text
    assert "further_teacher_weights (--teacher-weights)" in text


@pytest.fixture(scope="module")
def folder(tmp_path_factory, process, small):
    """A finished run with two teachers."""
    base = tmp_path_factory.mktemp("several")
    said = process("run", "--plugin", "st", *PAIR, *small, "--out", base / "run")
    assert said.code == 0, said.err
    assert "Evaluating the 2 teachers together" in said.err
    assert "Distilling resnet8 <- resnet8 + resnet14 (st)" in said.err
    lines = [line.split() for line in said.out.splitlines()]
    assert next(line[1:4] for line in lines if line and line[0] == "teacher") == ["resnet8", "+", "resnet14"]
    assert [line[0] for line in lines if line].count("teacher") == 3
    return base / "run"


def test_a_plan_lists_all_teachers(kdengine, small):
    said = kdengine("run", "--plugin", "fitnet", *PAIR, *small, "--dry-run")
    assert said.code == 0, said.err
    lines = [" ".join(line.split()) for line in said.out.splitlines()]
    assert "teacher resnet8 78,042 3 x 32 x 32" in lines
    assert "teacher 2 resnet14 175,258 3 x 32 x 32" in lines
    assert any(line.startswith("teacher 2 runs up to layer2") for line in lines)


@pytest.mark.slow
def test_the_folder_repeats_is_evaluated_benchmarked_and_reported(folder, kdengine, here):
    assert kdengine("run", folder / "run.toml", "--out", "again", "--json").code == 0
    assert rows(here / "again") == rows(folder)
    student = json.loads((folder / "result.json").read_text())["student"]
    assert kdengine("evaluate", folder, "--json").json["top1"] == student["top1"]
    measured = kdengine("benchmark", folder, "--batch", 2, "--json")
    assert measured.code == 0, measured.err
    (teacher,) = [one["teacher"] for one in measured.json["runs"]]
    assert teacher["name"] == "resnet8 + resnet14"
    assert teacher["parameters"] == 78_042 + 175_258
    table = kdengine("report", folder)
    assert table.code == 0, table.err
    taught = [line.split() for line in table.out.splitlines() if line.startswith("resnet")]
    assert [line[: line.index("teacher")] for line in taught if "teacher" in line] == [
        ["resnet8", "+"],
        ["resnet8"],
        ["resnet14"],
    ]
    assert kdengine("report", folder, "--html", "page.html").code == 0
    assert "taught by resnet8 + resnet14" in (here / "page.html").read_text()


@pytest.mark.slow
def test_a_comparison_records_the_weights_of_each_teacher_and_lists_them(kdengine, small, here):
    said = kdengine("compare", "--methods", "st", *PAIR, *small, "--out", "all")
    assert said.code == 0, said.err
    assert [line.split()[1] for line in said.out.splitlines() if line.startswith("teacher")][1:] == ["resnet8", "resnet14"]
    taught, plain = (Settings.checked(_toml(here / "all" / "trial-1" / lane / "run.toml")) for lane in ("st", "plain"))
    assert [name.rpartition("/")[2] for name in taught.weights_of_teachers] == ["student.safetensors"] * 2
    assert plain.teachers == ()
    assert kdengine("run", "all/trial-1/st/run.toml", "--out", "alone", "--json").code == 0
    assert [row["loss"] for row in rows(here / "alone")] == [row["loss"] for row in rows(here / "all/trial-1/st")]


def _toml(file):
    from kdengine.config.values import read_toml

    return read_toml(file)
