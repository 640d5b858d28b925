import json
import shutil
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file

from kdengine.data import decoding


@pytest.fixture
def photos(digits, here):
    """Twelve test images as files, and one that is larger, not square, and has transparency."""
    folder = here / "photos"
    folder.mkdir()
    for number, pixels in enumerate(digits.test.images[:12]):
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(folder / f"{number:02}.png")
    large = Image.fromarray(digits.test.images[3].permute(1, 2, 0).numpy()).convert("RGBA").resize((90, 70))
    large.save(here / "large.png")
    return folder


def test_images_get_the_classes_that_the_student_gives_them(finished, kdengine, photos, digits):
    _, run = finished
    said = kdengine("predict", run, "photos", "--top", 10, "--json")
    assert said.code == 0, said.err
    facts = json.loads((run / "result.json").read_text())["data"]
    network = timm.create_model("resnet8", num_classes=10).eval()
    network.load_state_dict(load_file(run / "student.safetensors"))
    mean, std = (torch.tensor(facts[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        expected = network((digits.test.images[:12].float() / 255 - mean) / std).softmax(1)
    assert [entry["image"] for entry in said.json["images"]] == [str(Path("photos", f"{n:02}.png")) for n in range(12)]
    for entry, row in zip(said.json["images"], expected, strict=True):
        found = {answer["index"]: answer["probability"] for answer in entry["predictions"]}
        assert [found[index] for index in range(10)] == pytest.approx(row.tolist(), abs=1e-5)
        assert list(found.values()) == sorted(found.values(), reverse=True)
        assert all(answer["class"] == str(answer["index"]) for answer in entry["predictions"])


def test_files_are_decoded_as_data_are_and_shown_as_a_table(finished, kdengine, photos, here):
    pixels = decoding.pixels([(Image.open("large.png"), 0)], 0, 32, 32)
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save("small.png")
    facts = kdengine("predict", finished[1], "large.png", "small.png", "--json").json
    large, small = (entry["predictions"] for entry in facts["images"])
    assert large == small
    assert len(large) == 3
    lines = kdengine("predict", finished[1], "small.png", "--top", 2).out.splitlines()
    assert lines[0].split() == ["image", "class", "index", "probability"]
    assert lines[1].split() == ["small.png", small[0]["class"], str(small[0]["index"]), f"{small[0]['probability']:.4f}"]
    assert len(lines) == 3


def test_unreadable_files_are_all_named_and_the_others_predicted(finished, kdengine, photos, here):
    (here / "cut.png").write_bytes((photos / "00.png").read_bytes()[:60])
    (here / "text.png").write_text("no image")
    (here / "empty").mkdir()
    said = kdengine("predict", finished[1], "cut.png", "photos/0*.png", "text.png", "absent.png", "empty", "--json")
    assert said.code == 2
    assert [entry["image"] for entry in said.json["images"]] == [f"photos/0{number}.png" for number in range(10)]
    assert [entry["image"] for entry in said.json["unreadable"]] == ["cut.png", "text.png", "absent.png", "empty"]
    for name in ("cut.png", "text.png", "absent.png", "empty"):
        assert f"'{name}' cannot be read" in said.err
    assert "'empty' cannot be read: it is a folder without images." in said.err
    assert "'absent.png' cannot be read: No such file or directory." in said.err
    assert "Traceback" not in said.err


def changed(run, folder, change):
    """A copy of a run whose result is another."""
    copy = shutil.copytree(run, folder)
    result = json.loads((copy / "result.json").read_text())
    change(result["data"])
    (copy / "result.json").write_text(json.dumps(result))
    return copy


def test_the_names_of_the_classes_are_those_of_the_run(finished, kdengine, photos, tmp_path):
    names = [f"digit {number}" for number in range(10)]
    run = changed(finished[1], tmp_path / "named", lambda data: data.update(classes=names, name="gone"))
    (entry,) = kdengine("predict", run, "photos/00.png", "--json").json["images"]
    assert all(answer["class"] == names[answer["index"]] for answer in entry["predictions"])


def test_an_unknown_normalisation_is_told(finished, kdengine, photos, tmp_path):
    run = changed(finished[1], tmp_path / "loaders", lambda data: [data.pop(name) for name in ("mean", "std")])
    said = kdengine("predict", run, "photos/00.png")
    assert said.code == 2
    assert "loaders of your own" in said.err


def test_a_folder_without_a_run_is_told(kdengine, photos):
    said = kdengine("predict", "photos", "photos/00.png", "--json")
    assert said.code == 2
    assert "not a run folder" in said.json["error"]
