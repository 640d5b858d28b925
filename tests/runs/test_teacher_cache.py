import json
import threading
import time
from types import SimpleNamespace

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from kdengine import Engine, ModelError, Registry, hookimpl
from kdengine.config.settings import Settings
from kdengine.data.load import load_data
from kdengine.networks.models import ModelSource
from kdengine.runs.teacher_cache import CachedTeacher

DATA = "digits@train=16@test=16"
FAST = {"data": DATA, "epochs": 1, "precision": "fp32", "device": "cpu", "batch_size": 8, "lr": 0.02}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KDENGINE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "teachers"


def distil(teacher="resnet14", **settings):
    return Engine(teacher, "resnet8", ["st"], **{**FAST, **settings}).fit()


def kept(cache):
    return sorted(folder.name for folder in cache.iterdir() if not folder.name.startswith("."))


def test_a_teacher_is_trained_once_and_taken_from_the_cache_the_second_time(cache):
    first, second = distil(), distil()
    assert first.facts["teacher"]["cached"] is False
    assert second.facts["teacher"]["cached"] is True
    assert len(kept(cache)) == 1
    assert first.teacher_top1 == second.teacher_top1
    assert [row["terms"] for row in first.history] == [row["terms"] for row in second.history]


@pytest.mark.slow
def test_another_teacher_is_trained_when_network_data_seed_or_settings_differ_but_not_for_the_students_options(cache):
    distil()
    assert distil(options={"st": {"temperature": 2.0}}).facts["teacher"]["cached"] is True
    others = [{"teacher": "resnet8"}, {"data": "digits@train=8@test=16"}, {"seed": 1}, {"teacher_train": {"lr": 0.01}}]
    for number, other in enumerate(others, 2):
        assert distil(**other).facts["teacher"]["cached"] is False
        assert len(kept(cache)) == number


def test_a_teacher_for_another_task_on_the_same_data_is_another(cache):
    data = load_data(DATA, Registry())

    def folder(task):
        return CachedTeacher(Settings(student="resnet14", task=task), data, "fp32", SimpleNamespace(changes=False)).folder.path

    assert folder("unlabelled") != folder(None)
    assert folder("classification") == folder(None)  # what the data is for anyway


def test_a_teacher_with_settings_of_its_own_is_trained_by_them(cache):
    facts = distil(teacher_train={"epochs": 2}).facts
    assert facts["teacher"]["epochs"] == 2
    assert facts["student"]["epochs"] == 1
    assert facts["settings"]["teacher_train"]["epochs"] == 2


def test_the_kept_teacher_is_a_run_folder_like_any_other(cache):
    facts = distil().facts["teacher"]
    (name,) = kept(cache)
    folder = cache / name
    assert facts["folder"] == str(folder)
    result = json.loads((folder / "result.json").read_text())
    assert result["teacher"] is None
    assert result["student"]["top1"] == facts["top1"]
    assert facts["name"] == "resnet14"
    assert not (folder / "state").exists()


class Stopping:
    """Interrupts once the first epoch is over."""

    @hookimpl(trylast=True)
    def kdengine_after_epoch(self, record):
        if record["epoch"] == 1:
            raise KeyboardInterrupt


def test_a_teacher_that_was_trained_but_not_put_in_its_place_is_put_there(cache):
    class Broken:
        @hookimpl
        def kdengine_after_fit(self, run):
            raise ZeroDivisionError("the disk is gone")

    with pytest.raises(ZeroDivisionError):
        distil(observers=[Broken()])
    assert kept(cache) == []
    epochs = Epochs()
    distil(observers=[epochs])
    assert {lane for lane, _ in epochs.seen} == {"st"}
    assert len(kept(cache)) == 1


@pytest.mark.slow
def test_an_interrupted_teacher_goes_on_where_it_stopped(cache, tmp_path):
    undisturbed = distil(teacher_train={"epochs": 3})
    kept_undisturbed = load_file(cache / kept(cache)[0] / "student.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDENGINE_CACHE", str(tmp_path / "other"))
        with pytest.raises(KeyboardInterrupt):
            distil(teacher_train={"epochs": 3}, observers=[Stopping()])
        other = tmp_path / "other" / "teachers"
        assert kept(other) == []
        epochs = Epochs()
        result = distil(teacher_train={"epochs": 3}, observers=[epochs])
        assert epochs.seen == [("plain", 2), ("plain", 3), ("st", 1)]
        kept_resumed = load_file(other / kept(other)[0] / "student.safetensors")
    assert all(torch.equal(kept_undisturbed[key], kept_resumed[key]) for key in kept_undisturbed)
    assert result.teacher_top1 == undisturbed.teacher_top1
    assert [row["terms"] for row in result.history] == [row["terms"] for row in undisturbed.history]


class Epochs:
    """Notes which epochs of which lane were trained."""

    def __init__(self):
        self.seen = []

    @hookimpl
    def kdengine_after_epoch(self, record):
        self.seen.append((record["lane"], record["epoch"]))


class Waiting:
    """Holds the training of the teacher up until the test lets it go."""

    def __init__(self):
        self.begun, self.go = threading.Event(), threading.Event()

    @hookimpl
    def kdengine_before_fit(self, run):
        if run.settings.teacher is None:
            self.begun.set()
            assert self.go.wait(60)


@pytest.mark.slow
def test_of_two_runs_at_once_one_trains_the_teacher_and_the_other_waits_for_it(python, tmp_path):
    code = f"""
        from kdengine import Engine
        result = Engine("resnet14", "resnet8", ["st"], **{FAST!r}, out={str(tmp_path / "other")!r}).fit()
        print(result.facts["teacher"]["cached"])
    """
    waiting, said = Waiting(), []
    first = threading.Thread(target=lambda: said.append(distil(observers=[waiting], out=tmp_path / "one")))
    first.start()
    assert waiting.begun.wait(60)
    second = threading.Thread(target=lambda: said.append(python(code)))
    second.start()
    time.sleep(1)
    waiting.go.set()
    first.join(), second.join()
    assert said[1] == "True"
    assert said[0].facts["teacher"]["cached"] is False


def weights_of(name, classes, path, seed=3):
    model = ModelSource(name, {"num_classes": classes}, (3, 32, 32), Registry()).create(seed)
    save_file(model.state_dict(), path)
    return path


def test_given_weights_are_used_and_nothing_is_trained(cache, tmp_path):
    file = weights_of("resnet14", 10, tmp_path / "teacher.safetensors")
    by_file = distil(teacher_weights=file)
    by_module = distil(teacher=ModelSource("resnet14", {"num_classes": 10}, (3, 32, 32), Registry()).create(3))
    assert by_file.teacher_top1 == by_module.teacher_top1
    assert [row["terms"] for row in by_file.history] == [row["terms"] for row in by_module.history]
    assert not cache.exists()


def test_a_run_folder_can_be_the_teachers_weights(cache):
    trained = Engine(None, "resnet14", **FAST).fit()
    result = distil(teacher_weights=trained.folder)
    assert result.teacher_top1 == trained.top1
    assert not cache.exists()


@pytest.mark.parametrize(("name", "classes"), [("resnet20", 10), ("resnet14", 7)])
def test_weights_that_do_not_fit_are_refused_before_anything_is_written(name, classes, cache, tmp_path):
    file = weights_of(name, classes, tmp_path / "teacher.safetensors")
    with pytest.raises(ModelError, match=r"do not match the teacher 'resnet14': .*layer|7 outputs \('fc'\), but .* 10 "):
        distil(teacher_weights=file)
    assert [path.name for path in tmp_path.iterdir()] == ["teacher.safetensors"]


@pytest.mark.parametrize(("given", "fix"), [(True, "Give other weights"), (False, "Lower teacher_train.lr")])
def test_a_teacher_whose_outputs_are_not_finite_is_refused_by_its_name(given, fix, cache, tmp_path):
    settings = {"data": "digits@train=8@test=8", "batch_size": 8, "epochs": 1, "precision": "fp32", "device": "cpu"}
    broken = timm.create_model("resnet8", num_classes=10)
    broken.fc.weight.data[0, 0] = float("nan")
    teacher = {"teacher": broken} if given else {"teacher": "resnet8", "teacher_train": {"lr": 1e30}}
    with pytest.raises(ModelError, match=f"of the teacher '.*' are not finite.* {fix}"):
        Engine(student="resnet8", plugins=["st"], out=tmp_path / "run", **teacher, **settings).fit()
