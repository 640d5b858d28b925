import json
import shutil
from pathlib import Path
from textwrap import dedent

import pytest
from PIL import Image

from kdengine import StorageError


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


@pytest.fixture
def flowers(tmp_path):
    """A folder of red and blue images; gives it again with one class renamed, so that the order is another."""

    def write(red="a-red", blue="b-blue"):
        for part, count in (("train", 24), ("test", 8)):
            for name, colour in ((red, (200, 30, 30)), (blue, (30, 30, 200))):
                place = tmp_path / red / part / name
                place.mkdir(parents=True)
                for number in range(count):
                    Image.new("RGB", (16, 16), tuple(value + number for value in colour)).save(place / f"{number}.png")
        return f"imagefolder:{tmp_path / red}"

    return write


def test_data_with_other_classes_or_another_order_is_refused(flowers, kdengine, here):
    train = ["train", "--model", "resnet8", "--epochs", "1", "-o", "train.batch_size=16", "-o", "train.device=cpu"]
    assert kdengine(*train, "--data", flowers(), "--out", "run", "--json").code == 0
    for name in ("manifest.json", "result.json"):
        assert json.loads((here / "run" / name).read_text())["data"]["classes"] == ["a-red", "b-blue"]
    renamed = flowers(red="z-red")
    said = kdengine("evaluate", "run", "--data", renamed, "--json")
    assert said.code == 2
    assert "are others than those that the student of 'run' was trained for" in said.json["error"]
    assert "class 0 is 'b-blue', not 'a-red'; class 1 is 'z-red', not 'b-blue'" in said.json["error"]
    result = json.loads((here / "run" / "result.json").read_text())
    del result["data"]["classes"]
    (here / "run" / "result.json").write_text(json.dumps(result))
    assert kdengine("evaluate", "run", "--data", renamed, "--json").code == 0, "an older folder does not say its classes"


INPUT = ["-o", "student_input.size=24", "-o", "student_input.mean=[0.5, 0.4, 0.3]"]


def test_a_student_with_an_input_of_its_own_is_measured_on_that(kdengine, small, here):
    said = kdengine("train", "--model", "resnet8", *small, *INPUT, "--out", "run", "--json")
    student = said.json["student"]
    assert (student["input"]["size"], student["input"]["mean"]) == ([3, 24, 24], [0.5, 0.4, 0.3])
    again = kdengine("evaluate", "run", "--json").json
    assert (again["top1"], again["top5"], again["loss"]) == (student["top1"], student["top5"], _last_loss("run"))
    result = json.loads((here / "run" / "result.json").read_text())
    del result["student"]["input"]["mean"], result["student"]["input"]["std"]
    (here / "run" / "result.json").write_text(json.dumps(result))
    assert kdengine("evaluate", "run", "--json").json["loss"] != again["loss"], "with the data's normalisation it is another"


def _last_loss(folder):
    return json.loads(Path(folder, "metrics.jsonl").read_text().splitlines()[-1])["test_loss"]


def test_on_data_of_another_size_the_student_gets_the_size_and_normalisation_of_its_run(finished, kdengine, here):
    factory = """
        from dataclasses import replace

        import torch.nn.functional as F
        from kdengine.data.load import load_data


        def large():
            digits = load_data("digits@train=128@test=64")
            doubled = replace(digits.test, images=digits.test.images.repeat_interleave(2, 2).repeat_interleave(2, 3))
            train = replace(digits.train, images=F.pad(digits.train.images, [16] * 4))
            return replace(digits, input_size=(3, 64, 64), train=train, test=doubled, mean=(), std=())
    """
    (here / "doubled.py").write_text(dedent(factory))
    _, folder = finished
    own = kdengine("evaluate", folder, "--json").json
    found = kdengine("evaluate", folder, "--data", "python:doubled:large", "--json").json
    assert found["loss"] == pytest.approx(own["loss"], rel=0.05), "images of double size, halved again"


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
    assert "not a run folder" in said.json["error"]


def test_every_class_is_measured_and_the_counts_are_kept(finished, kdengine, tmp_path):
    run = shutil.copytree(finished[1], tmp_path / "run")
    facts = kdengine("evaluate", run, "--per-class", "--json").json
    counts = facts["confusion"]
    assert sum(map(sum, counts)) == 32
    assert 100 * sum(counts[index][index] for index in range(10)) / 32 == facts["top1"]
    assert [row["images"] for row in facts["per_class"]] == [sum(row) for row in counts]
    kept = json.loads((run / "classes.json").read_text())
    assert kept["last"] == {"classes": facts["classes"], "confusion": counts}
    said = kdengine("evaluate", run, "--per-class", "--data", "digits@test=100")
    assert said.code == 0
    assert "accuracy %" in said.out
    assert "true \\ predicted" in said.out
    assert json.loads((run / "classes.json").read_text()) == kept, "other data say nothing about the run"


def test_the_moving_average_is_measured_as_the_run_measured_it(kdengine, small, finished, here):
    assert kdengine("train", "--model", "resnet8", *small, "-o", "train.ema=0.9", "--out", "run").code == 0
    row = json.loads(Path("run", "metrics.jsonl").read_text().splitlines()[-1])
    facts = kdengine("evaluate", "run", "--weights", "ema", "--json").json
    assert facts["loss"] in row.values()
    assert facts["loss"] != row["test_loss"]
    said = kdengine("evaluate", finished[1], "--weights", "ema")
    assert said.code == 2
    assert "trained without train.ema" in said.err


def test_classes_that_cannot_be_told_apart_or_kept_are_no_traceback(finished, kdengine, monkeypatch):
    _, folder = finished

    def full(*_):
        raise StorageError("the disk is full")

    monkeypatch.setattr("kdengine.storage.confusion.ConfusionMatrix.keep", full)
    said = kdengine("evaluate", folder, "--per-class")
    assert said.code == 0
    assert "Reports will not show the classes: the disk is full" in " ".join(said.err.split())
    monkeypatch.setattr("kdengine.tasks.Classification.confusion", lambda self: None)
    said = kdengine("evaluate", folder, "--per-class")
    assert said.code == 2
    assert "has no classes to tell apart" in said.err
