import json
import shutil

import pytest


def test_a_finished_run_is_measured_again_and_gives_the_reported_numbers(finished, kdengine):
    _, folder = finished
    student = json.loads((folder / "result.json").read_text())["student"]
    last = kdengine("evaluate", folder, "--json")
    assert last.code == 0
    assert (last.json["top1"], last.json["top5"]) == (student["top1"], student["top5"])
    best = kdengine("evaluate", folder, "--weights", "best", "--json").json
    assert best["top1"] == student["best_top1"]
    assert f"{student['top1']:.2f}" in kdengine("evaluate", folder).out


def test_it_can_be_measured_on_other_data(finished, kdengine):
    _, folder = finished
    facts = kdengine("evaluate", folder, "--data", "digits@test=100", "--json").json
    assert facts["data"] == "digits@test=100"
    assert facts["top1"] == round(facts["top1"])


@pytest.mark.parametrize("missing", ["run.toml", "result.json", "student.safetensors"])
def test_a_folder_without_a_finished_run_is_told(missing, finished, kdengine, tmp_path):
    copy = shutil.copytree(finished[1], tmp_path / "copy")
    (copy / missing).unlink()
    said = kdengine("evaluate", copy)
    assert (said.code, said.out) == (2, "")
    assert "Traceback" not in said.err
    assert str(copy) in said.err


def test_with_json_the_error_is_one_object_too(kdengine):
    said = kdengine("evaluate", "nowhere", "--json")
    assert said.code == 2
    assert "no run folder" in said.json["error"]
