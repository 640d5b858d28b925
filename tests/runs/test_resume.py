import copy
import logging
import os
import signal

import pytest
import torch
from torch import nn

from kdengine import Distiller, Engine, PluginError, Registry, SettingsError, hookimpl
from kdengine.config.settings import Settings
from kdengine.runs.resume import changed_settings
from kdengine.storage.runfolder import RunFolder
from kdengine.storage.sameness import check_same
from kdengine.training.signals import Stopped

FAST = {"data": "digits@train=24@test=16", "precision": "fp32", "device": "cpu", "batch_size": 8, "lr": 0.02, "epochs": 2}
BEGUN = {"precision": "fp32", "threads": 2, "data": {"fingerprint": "a"}, "teacher": {"fingerprint": "b"}}


class Stop:
    """Asks for a stop after the first step of the second epoch."""

    @hookimpl
    def kdengine_after_step(self, run, done):
        if run.settings.teacher and len(run.lane.history) == 1 and done == 1:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def stopped(tmp_path, monkeypatch, unheard_signals):
    """The folder of a run that was stopped in its second epoch."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Stopped):
        Engine("resnet14", "resnet8", ["st"], out="run", observers=[Stop()], **FAST).fit()
    return RunFolder("run")


@pytest.fixture
def stored():
    networks = {"student": "resnet8", "teacher": "resnet14", "methods": ["st"]}
    return Settings.checked({**networks, "options": {"st": {"alpha": 0.5}}, "train": {"lr": 0.1}})


def wish(stored, override=False, **said):
    return changed_settings(stored, said, "run", Registry(), override)


def test_what_is_said_again_and_what_decides_no_number_may_be_said(stored):
    assert wish(stored, train={"lr": 0.1}, teacher="resnet14", options={"st": {"alpha": 0.5}}) == stored
    assert wish(stored, train={"workers": 7, "save_minutes": 1}).train.workers == 7


def test_whatever_else_was_changed_is_refused_by_its_name_all_at_once(stored):
    with pytest.raises(SettingsError) as caught:
        wish(stored, train={"lr": 0.2, "epochs": 50}, options={"st": {"alpha": 0.9}}, data="cifar10")
    said = str(caught.value)
    for part in (
        "train.lr is 0.1, got 0.2",
        "train.epochs is 30, got 50",
        "options.st.alpha is 0.5, got 0.9",
        "data is digits",
    ):
        assert part in said
    assert "--override" in said


def test_it_may_be_overridden_but_not_what_the_state_belongs_to(stored):
    assert wish(stored, override=True, train={"epochs": 50}).train.epochs == 50
    with pytest.raises(SettingsError, match=r"A run that has started cannot change student or seed"):
        wish(stored, override=True, student="resnet14", seed=3, train={"epochs": 50})


def test_a_wish_that_is_no_setting_is_refused_as_everywhere(stored):
    with pytest.raises(SettingsError, match=r"Did you mean 'lr'"):
        wish(stored, train={"lrr": 0.2})


@pytest.mark.parametrize(
    ("now", "part"),
    [
        ({"precision": "bf16"}, "its precision was fp32, and is now bf16"),
        ({"data": {"fingerprint": "c"}}, "its data was a, and is now c"),
        ({"teacher": {"fingerprint": "c"}}, "its teacher was b, and is now c"),
    ],
)
def test_a_run_under_other_circumstances_is_another_run(now, part):
    with pytest.raises(SettingsError, match=part):
        check_same(BEGUN, {**BEGUN, **now}, "run", override=False)
    check_same(BEGUN, {**BEGUN, **now}, "run", override=True)


def test_another_number_of_threads_is_told_for_it_may_change_the_last_digits(caplog):
    with caplog.at_level(logging.WARNING, "kdengine"):
        check_same(BEGUN, BEGUN, "run", override=False)
    assert caplog.text == ""
    with caplog.at_level(logging.WARNING, "kdengine"):
        check_same(BEGUN, {**BEGUN, "threads": 1}, "run", override=False)
    assert "threads: 2, now 1" in caplog.text
    assert "last digits" in caplog.text


@pytest.mark.sample(1)
def test_a_run_goes_on_with_more_epochs_where_that_is_overridden(stopped):
    with pytest.raises(SettingsError, match=r"train.epochs is 2, got 3"):
        Engine.resume("run", changes={"train": {"epochs": 3}})
    result = Engine.resume("run", changes={"train": {"epochs": 3}}, override=True).fit()
    assert len(result.history) == 3
    assert RunFolder("run").settings().train.epochs == 3


@pytest.mark.slow
def test_more_epochs_of_the_student_are_no_other_teacher(stopped):
    taught = stopped.manifest()["teacher"]["fingerprint"]
    Engine.resume("run", changes={"train": {"epochs": 3}}, override=True).fit()
    assert stopped.manifest()["teacher"]["fingerprint"] == taught
    assert stopped.manifest()["overridden_after_epochs"] == 1


@pytest.mark.sample(1)
def test_other_batches_cannot_follow_within_an_epoch(stopped):
    with pytest.raises(SettingsError, match=r"stopped within an epoch, so batch_size cannot change now"):
        Engine.resume("run", changes={"train": {"batch_size": 16}}, override=True).fit()
    assert len(Engine.resume("run").fit().history) == 2


def test_a_run_that_was_finished_meanwhile_is_not_begun_anew(stopped, monkeypatch):
    late = Engine.resume("run")
    Engine.resume("run").fit()
    result = (stopped.path / "result.json").read_bytes()
    with pytest.raises(SettingsError, match="finished by another process"):
        late.fit()
    assert (stopped.path / "result.json").read_bytes() == result


@pytest.mark.slow
def test_a_run_of_modules_goes_on_with_the_same_modules(tmp_path, unheard_signals):
    from kdengine.networks.models import ModelSource

    def networks():
        return [ModelSource(name, {"num_classes": 10}, (3, 32, 32), Registry()).create(5) for name in ("resnet14", "resnet8")]

    class Halt(Stop):
        @hookimpl
        def kdengine_on_error(self, run):
            self.again = run.again

    whole = Engine(*networks(), ["st"], out=tmp_path / "whole", **FAST).fit()
    halt = Halt()
    with pytest.raises(Stopped):
        Engine(*networks(), ["st"], out=tmp_path / "part", observers=[halt], **FAST).fit()
    assert halt.again == f'Engine.resume("{tmp_path / "part"}", teacher=..., student=...).fit() with the same modules as before'
    teacher, student = networks()
    part = Engine.resume(tmp_path / "part", teacher=teacher, student=student).fit()
    assert [row["terms"] for row in part.history] == [row["terms"] for row in whole.history]


@pytest.mark.sample(1)
def test_other_weights_of_the_teacher_are_noticed(stopped, tmp_path):
    other = Engine(None, "resnet14", out="other", **{**FAST, "seed": 5, "epochs": 1}).fit().folder
    changes = {"teacher_weights": str(other)}
    with pytest.raises(SettingsError, match=r"teacher_weights is not set, got other"):
        Engine.resume("run", changes=changes)
    assert Engine.resume("run", changes=changes, override=True).fit().top1 >= 0


@pytest.mark.slow
def test_a_teacher_whose_file_was_replaced_is_noticed(tmp_path, monkeypatch, unheard_signals):
    monkeypatch.chdir(tmp_path)
    for seed in (1, 2):
        Engine(None, "resnet14", out=f"teacher-{seed}", **{**FAST, "seed": seed, "epochs": 1}).fit()
    weights = "teacher-1/student.safetensors"
    with pytest.raises(Stopped):
        Engine("resnet14", "resnet8", ["st"], out="run", observers=[Stop()], teacher_weights=weights, **FAST).fit()
    os.replace("teacher-2/student.safetensors", "teacher-1/student.safetensors")
    with pytest.raises(SettingsError, match=r"its teacher was \w+, and is now \w+"):
        Engine.resume("run").fit()
    assert Engine.resume("run", override=True).fit().top1 >= 0


def test_a_damaged_state_is_told_with_what_can_be_done_and_the_rows_stay(stopped):
    rows = stopped.metrics()
    stopped.state_file.write_bytes(stopped.state_file.read_bytes()[:1000])
    with pytest.raises(Exception, match=r"lane.pt' cannot be read: it is damaged.*Remove the state file") as caught:
        Engine.resume("run").fit()
    assert type(caught.value).__name__ == "StorageError"
    assert stopped.metrics() == rows
    stopped.state_file.unlink()
    assert len(Engine.resume("run").fit().history) == 2


@pytest.mark.slow
def test_a_state_of_another_run_is_told(stopped, tmp_path):
    with pytest.raises(Stopped):
        Engine("resnet14", "resnet14", ["st"], out="other", observers=[Stop()], **FAST).fit()
    os.replace("other/state/lane.pt", "run/state/lane.pt")
    with pytest.raises(SettingsError, match="does not match its run"):
        Engine.resume("run").fit()


def test_a_folder_in_use_is_not_gone_on_with(stopped):
    holder = RunFolder("run")
    holder.take()
    with pytest.raises(SettingsError, match="in use"):
        Engine.resume("run").fit()
    holder.free()
    assert len(Engine.resume("run").fit().history) == 2


class Own(Distiller):
    """A method that no plugin offers."""

    name = "own"

    class Options(Distiller.Options):
        power: float = 2.0

    def build(self, pair):
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, step):
        self.steps += 1
        return {"loss": (step.student.logits - step.teacher.logits).abs().pow(self.options.power).mean() / self.steps}


def test_a_run_with_an_object_of_a_class_of_ones_own_is_resumed_with_it(tmp_path, monkeypatch, unheard_signals):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    given = {"plugins": [Own(power=3.0), "st"], "options": {"st": {"alpha": 0.5}}}
    whole = Engine(teacher, "resnet8", **given, **FAST).fit()
    with pytest.raises(Stopped):
        Engine(teacher, "resnet8", **given, out="run", observers=[Stop()], **FAST).fit()
    for plugins, error, said in (
        ((), PluginError, r"no plugin 'own'.*give it again: Engine\.resume\(FOLDER, plugins=\[\.\.\.\]\)"),
        (["st"], SettingsError, "its methods are own, st, got st"),
        ([Own(), "st"], SettingsError, r"own\.power is 3\.0, got 2\.0"),
    ):
        with pytest.raises(error, match=said):
            Engine.resume("run", teacher=teacher, plugins=plugins)
    changes = {"train": {"save_minutes": 3}}
    result = Engine.resume("run", teacher=teacher, plugins=[Own(power=3.0), "st"], changes=changes).fit()
    assert [row["terms"] for row in result.history] == [row["terms"] for row in whole.history]


class Crash:
    """Fails in the first epoch, before any state is saved."""

    @hookimpl
    def kdengine_after_step(self, done):
        if done == 2:
            raise RuntimeError("pulled the plug")


def test_a_student_that_was_trained_in_place_is_not_taken_for_the_one_that_a_run_began_with(tmp_path):
    torch.manual_seed(0)
    student = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    first = copy.deepcopy(student)
    with pytest.raises(RuntimeError, match="plug"):
        Engine(None, student, out=tmp_path / "run", observers=[Crash()], **FAST).fit()
    with pytest.raises(SettingsError, match=r"no saved state.*other weights than it began with"):
        Engine.resume(tmp_path / "run", student=student).fit()
    assert len(Engine.resume(tmp_path / "run", student=first).fit().history) == 2


def test_a_folder_with_a_finished_run_is_told_from_one_to_go_on_with(tmp_path):
    (tmp_path / "run.toml").write_text("")
    with pytest.raises(SettingsError, match=r"already holds a run\. Continue it"):
        RunFolder(tmp_path).check_new()
    (tmp_path / "result.json").write_text("{}")
    with pytest.raises(SettingsError, match=r"which is finished\. Choose another"):
        RunFolder(tmp_path).check_new()
