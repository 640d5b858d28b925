import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from kdengine import Comparison, DataError, Engine, ModelError, Registry, SettingsError, hookimpl
from kdengine.config.settings import InputSettings
from kdengine.data.load import load_data
from kdengine.networks.models import ModelSource
from kdengine.networks.network import Network
from kdengine.networks.weights import fingerprint_of_file
from kdengine.runs.past_weights import input_of_run, load_student
from kdengine.tasks import Classification
from kdengine.tasks.segmentation import Segmentation

FAST = {"epochs": 1, "precision": "fp32", "device": "cpu", "batch_size": 8, "lr": 0.02}


def test_a_teachers_weights_are_refused_where_the_classes_have_another_order(tmp_path):
    data = load_data("digits@train=8@test=16")
    teacher = Engine(None, "resnet8", data=data, out=tmp_path / "teacher", **FAST).fit().folder
    other = replace(data, classes=tuple(reversed(data.classes)))
    for weights in (teacher, teacher / "student.safetensors"):
        with pytest.raises(DataError, match=r"the weights of '.*teacher.*'"):
            Engine("resnet8", "resnet8", ["st"], other, teacher_weights=weights, out=tmp_path / "run", **FAST).fit()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("file", ["", "student.safetensors", "student-best.safetensors"])
def test_a_finished_run_says_what_its_weights_were_trained_on(file, run_folder):
    folder = run_folder("trained", method="plain")
    result = json.loads((folder / "result.json").read_text())
    assert input_of_run(str(folder / file)) == InputSettings(), "a folder that does not know"
    result["student"]["input"] = {"size": [3, 24, 24], "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    (folder / "result.json").write_text(json.dumps(result))
    expected = InputSettings(size=24, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    assert input_of_run(str(folder / file)) == expected
    assert input_of_run(str(folder / "other.pth")) == InputSettings()
    assert input_of_run(str(folder / file), Classification(10)) == expected
    of_pixels = InputSettings(mean=expected.mean, std=expected.std)
    assert input_of_run(str(folder / file), Segmentation(10)) == of_pixels


def test_a_head_for_pixels_gets_the_backbone_of_a_run_without_pixels(parent):
    task, size = Segmentation(4), (3, 32, 32)
    model = ModelSource("seg:resnet8", task.network_options(), size, Registry()).create(1)
    student = Network.probed("seg:resnet8", model, size, task)
    part = load_student(student, str(parent), few_classes(3))
    assert str(part) == "'backbone', without 'fc'; all else starts fresh"
    trained = load_file(parent / "student.safetensors")
    assert torch.equal(model.backbone.layer3[0].conv2.weight, trained["layer3.0.conv2.weight"])


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    """A finished run on three of the classes, which other runs start from."""
    data = few_classes(3)
    return Engine(None, "resnet8", data=data, out=tmp_path_factory.mktemp("parent") / "run", **FAST).fit().folder


def few_classes(count, reverse=False):
    """The digits below a number."""
    data = load_data("digits@train=24@test=16")
    parts = {
        name: part.at((part.labels < count).nonzero().flatten()) for name, part in (("train", data.train), ("test", data.test))
    }
    classes = data.classes[:count]
    return replace(data, classes=tuple(reversed(classes)) if reverse else classes, name=f"digits below {count}", **parts)


def started(parent, data, **more):
    return Engine(None, "resnet8", data=data, student_weights=parent, **more, **FAST).plan()


def test_a_student_starts_from_the_weights_of_a_run(parent, caplog):
    caplog.set_level("INFO", "kdengine")
    plan = started(parent, few_classes(3))
    stored = load_file(parent / "student.safetensors")
    assert all(torch.equal(stored[name], value) for name, value in plan.student.module.state_dict().items())
    assert f"resnet8 starts from '{parent}': loaded all weights" in caplog.messages
    assert plan.settings.student_weights == str(parent)


def test_all_but_the_head_is_loaded_for_another_number_of_classes_and_it_is_said(parent, caplog):
    caplog.set_level("INFO", "kdengine")
    plan, fresh = started(parent, few_classes(5)), Engine(None, "resnet8", data=few_classes(5), **FAST).plan()
    stored, own = load_file(parent / "student.safetensors"), plan.student.module.state_dict()
    head = {name for name in own if name.startswith("fc.")}
    assert all(torch.equal(stored[name], own[name]) for name in own.keys() - head)
    assert all(torch.equal(fresh.student.module.state_dict()[name], own[name]) for name in head)
    assert f"resnet8 starts from '{parent}': loaded all but the head 'fc' (3 -> 5 classes)" in caplog.messages


def test_a_head_for_other_classes_of_the_same_number_starts_fresh_and_another_order_is_refused(parent, caplog):
    caplog.set_level("INFO", "kdengine")
    started(parent, replace(few_classes(3), classes=("cat", "dog", "cow")))
    assert f"resnet8 starts from '{parent}': loaded all but the head 'fc' (3 -> 3 classes)" in caplog.messages
    with pytest.raises(DataError, match=r"in another order than those that the weights of '.*run'"):
        started(parent, few_classes(3, reverse=True))


def test_a_teacher_with_another_head_is_refused_with_the_way_to_train_it(parent):
    with pytest.raises(ModelError) as caught:
        Engine("resnet8", "resnet8", ["st"], few_classes(5), teacher_weights=parent, **FAST).plan()
    assert f"kdengine train --model resnet8 --weights {parent} --data 'digits below 5' loads all but the head" in str(
        caught.value
    )
    assert "give the folder of that run as --teacher-weights" in str(caught.value)


def test_weights_that_are_not_there_are_refused_before_the_data_are_read():
    with pytest.raises(ModelError, match=r"file 'nowhere\.pth' in .*'\. Check student_weights \(--student-weights"):
        Engine(None, "resnet8", data="imagefolder:nowhere", student_weights="nowhere.pth").plan()


def test_every_lane_of_a_comparison_starts_from_them(parent):
    session = Comparison("resnet8", "resnet8", ["st"], few_classes(3), student_weights=parent, **FAST).assignment.session()
    stored = load_file(parent / "student.safetensors")
    for student in (session.twin(), session.for_seed(5).twin()):
        assert all(torch.equal(stored[name], value) for name, value in student.module.state_dict().items())


def test_a_run_does_not_resume_with_other_first_weights(parent, tmp_path):
    file = tmp_path / "first.safetensors"
    shutil.copy(parent / "student.safetensors", file)
    options = {"data": "digits@train=16@test=16", "student_weights": file, "out": tmp_path / "run"}
    with pytest.raises(KeyboardInterrupt):
        Engine(None, "resnet8", observers=[Interrupt()], **options, **FAST | {"epochs": 2}).fit()
    recorded = json.loads((tmp_path / "run" / "manifest.json").read_text())["student_weights"]
    assert recorded == {"path": str(file), "fingerprint": fingerprint_of_file(file)}
    state = load_file(file)
    save_file({name: value + 1 for name, value in state.items()}, file)
    with pytest.raises(SettingsError, match="its file of the student's first weights was "):
        Engine.resume(tmp_path / "run").fit()
    shutil.copy(parent / "student.safetensors", file)
    assert len(Engine.resume(tmp_path / "run").fit().history) == 2


class Interrupt:
    """Ends the run after its first epoch."""

    @hookimpl
    def kdengine_after_epoch(self):
        raise KeyboardInterrupt
