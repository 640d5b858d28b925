import csv
import json
import shutil

import pytest

from kdengine.shipping import latency


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Rounds as short as they can be: the numbers do not matter here."""
    monkeypatch.setattr(latency, "ROUND_SECONDS", 1e-6)


@pytest.fixture
def run(finished, tmp_path):
    """A copy of the finished run, to write into."""
    return shutil.copytree(finished[1], tmp_path / "runs" / "run")


def test_student_and_teacher_are_measured_kept_and_reported(run, kdengine):
    said = kdengine("benchmark", run.parent, "--batch", 4, "--device", "cpu", "--json")
    assert said.code == 0, said.err
    (found,) = said.json["runs"]
    result = json.loads((run / "result.json").read_text())
    for role in ("student", "teacher"):
        measured = found[role]
        assert (measured["parameters"], measured["name"]) == (result[role]["parameters"], result[role]["name"])
        assert set(measured["latency_ms"]) == set(measured["peak_bytes"]) == {"1", "4"}
        assert all(0 < one["low"] <= one["median"] <= one["high"] for one in measured["latency_ms"].values())
    student, teacher = found["student"], found["teacher"]
    assert student["flops"] == result["student"]["flops"]
    assert student["file_bytes"] == (run / "student.safetensors").stat().st_size
    assert student["peak_bytes"]["1"] < student["peak_bytes"]["4"] < teacher["peak_bytes"]["4"]
    kept = json.loads((run / "benchmark.json").read_text())
    assert {"folder": str(run), **kept} == found
    median = f"{student['latency_ms']['4']['median']:.2f}"
    table = kdengine("report", run, "--format", "csv").out.splitlines()
    measured = [dict(zip(row[0], cells, strict=True)) for row in [list(csv.reader(table))] for cells in row[1:]]
    assert measured[1]["ms, batch 4"] == median
    kdengine("report", run, "--html", "page.html")
    with open("page.html") as page:
        assert f">{median}</td>" in page.read()


def test_the_table_names_device_threads_and_rounds(run, kdengine):
    out = kdengine("benchmark", run, "--batch", 1, "--device", "cpu").out
    assert "(cpu, " in out
    assert "thread" in out
    assert "medians of 11 rounds" in out
    assert [line.split()[:2] for line in out.splitlines()[-2:]] == [["timm:resnet14", "teacher"], ["resnet8", "rkd"]]


def test_a_teacher_that_cannot_be_built_is_left_out_and_its_code_is_not_run(run, kdengine):
    text = (run / "run.toml").read_text()
    for teacher, message in (("python:trap:net", "is left out"), ("timm:no-such-network", "the teacher is left out: timm has")):
        (run / "run.toml").write_text(text.replace('teacher = "timm:resnet14"', f'teacher = "{teacher}"'))
        said = kdengine("benchmark", run, "--batch", 1, "--device", "cpu", "--json")
        assert said.code == 0, said.err
        assert said.json["runs"][0]["teacher"] is None
        assert message in " ".join(said.err.split())


def test_a_run_that_is_not_finished_is_told(run, kdengine):
    (run / "result.json").unlink()
    said = kdengine("benchmark", run)
    assert said.code == 2
    assert "is not finished" in said.err
