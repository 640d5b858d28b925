import random

import numpy as np
import pytest
import torch
from torch import nn

from kdengine import (
    Comparison,
    DataError,
    Distiller,
    Engine,
    KDError,
    ModelError,
    PluginError,
    SettingsError,
    TapError,
    TrainSettings,
    hookimpl,
)
from kdengine.data.load import load_data
from kdengine.networks.models import ModelSource
from kdengine.plugins.registry import Registry

DATA = "digits@train=24@test=16"
FAST = {"data": DATA, "epochs": 2, "precision": "fp32", "device": "cpu", "batch_size": 8, "lr": 0.02}
TIMES = ("seconds", "images_per_second")
METHODS = ["st", "fitnet", "at", "rkd"]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    """Run folders land in the test's own folder."""
    monkeypatch.chdir(tmp_path)


def network(name="resnet14", seed=5, classes=10):
    return ModelSource(name, {"num_classes": classes}, (3, 32, 32), Registry()).create(seed)


def fit(plugins=(), teacher="random", student="resnet8", **settings):
    teacher = network() if teacher == "random" and plugins else None if teacher == "random" else teacher
    return Engine(teacher, student, plugins, **{**FAST, **settings}).fit()


def rows(result):
    """The history without what the clock decides."""
    return [{key: value for key, value in record.items() if key not in (*TIMES, "lane")} for record in result.history]


def weights(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return Engine(None, "resnet8", **FAST, out=tmp_path_factory.mktemp("plain")).fit()


@pytest.mark.sample(2)
@pytest.mark.parametrize("method", METHODS)
def test_weight_zero_equals_plain_training_bit_for_bit(method, plain):
    result = fit([method], options={method: {"weight": 0}})
    assert rows(result) == rows(plain)
    assert same(weights(result.student), weights(plain.student))
    assert result.facts["methods"] == []


@pytest.mark.sample(2)
@pytest.mark.parametrize("method", METHODS)
def test_a_method_with_weight_changes_the_student(method, plain):
    result = fit([method])
    assert not same(weights(result.student), weights(plain.student))
    assert {name.partition(".")[0] for record in result.history for name in record["terms"]} == {"task", method}


def test_the_same_seed_gives_the_same_numbers_twice_and_another_seed_others():
    first, second = fit(["fitnet", "st"], seed=3), fit(["fitnet", "st"], seed=3)
    assert rows(first) == rows(second)
    assert same(weights(first.student), weights(second.student))
    assert rows(fit(["fitnet", "st"], seed=4)) != rows(first)


def test_the_same_seed_gives_the_same_numbers_whatever_was_drawn_before(plain):
    torch.manual_seed(99)
    torch.rand(7)
    assert rows(fit()) == rows(plain)


def test_the_global_state_is_as_before_after_a_run():
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy(), torch.get_num_threads()
    fit(["fitnet"], epochs=1)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert (np.random.get_state()[1] == before[2]).all()
    assert torch.get_default_dtype() == torch.float32
    assert torch.get_num_threads() == before[3]
    assert torch.is_grad_enabled()
    assert not torch.is_autocast_enabled("cpu")


class Failing(Distiller):
    """Draws a number, then fails."""

    name = "failing"

    def forward(self, step):
        torch.rand(1)
        raise ValueError("no way")


def test_the_global_state_is_as_before_after_a_run_that_failed():
    before = torch.get_rng_state(), torch.get_num_threads()
    with pytest.raises(ValueError, match="no way") as caught:
        fit([Failing()], epochs=1)
    assert "while computing the terms of 'failing'" in caught.value.__notes__[0]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.is_grad_enabled()
    assert torch.get_num_threads() == before[1]


def test_the_teacher_comes_out_as_it_went_in():
    teacher = network().train()
    before = weights(teacher)
    asked = [parameter.requires_grad for parameter in teacher.parameters()]
    fit(["at", "fitnet"], teacher=teacher)
    assert same(weights(teacher), before)
    assert not any(module.training for module in teacher.modules())
    assert [parameter.requires_grad for parameter in teacher.parameters()] == asked
    assert all(parameter.grad is None for parameter in teacher.parameters())


def hooks(model):
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


def test_no_hooks_are_left_on_either_network():
    teacher, student = network(), network("resnet8")
    fit(["at"], teacher=teacher, student=student, epochs=1)
    assert hooks(teacher) == hooks(student) == 0


def test_no_hooks_are_left_when_a_run_fails():
    teacher, student = network(), network("resnet8")
    with pytest.raises(ValueError, match="no way"):
        fit([Failing()], teacher=teacher, student=student)
    assert hooks(teacher) == hooks(student) == 0
    assert not student.training


def test_a_student_module_is_trained_in_place_and_keeps_its_identity():
    student = network("resnet8")
    layers, before = dict(student.named_modules()), weights(student)
    result = fit(["fitnet"], student=student)
    assert result.student is student
    assert all(module is layers[name] for name, module in student.named_modules())
    assert not same(weights(student), before)


def test_a_module_gives_the_same_numbers_as_the_spec_that_made_it(plain):
    assert rows(fit(student=network("resnet8", seed=0))) == rows(plain)


class OnlyConnectors(Distiller):
    """Builds large connectors, and has a term too small to matter."""

    name = "only-connectors"

    def build(self, pair):
        self.wide = torch.nn.Linear(512, 512)

    def forward(self, step):
        return {"nothing": 0.0 * step.student.logits.sum()}


def test_connectors_do_not_disturb_the_students_own_weights_nor_its_batches(plain):
    result = fit([OnlyConnectors()])
    assert [row["terms"]["task"] for row in rows(result)] == [row["terms"]["task"] for row in rows(plain)]
    assert same(weights(result.student), weights(plain.student))


@pytest.mark.slow
def test_a_distiller_object_gives_the_same_numbers_as_its_name_with_options():
    (method,) = Registry().methods("rkd")
    by_object, by_name = fit([method(angle=7.0)]), fit(["rkd"], options={"rkd": {"angle": 7.0}})
    assert rows(by_object) == rows(by_name)
    assert by_object.facts["settings"]["options"] == by_name.facts["settings"]["options"]
    assert by_object.facts["settings"]["options"]["rkd"]["angle"] == 7.0


def test_options_for_a_method_that_came_as_an_object_are_refused():
    (method,) = Registry().methods("rkd")
    with pytest.raises(SettingsError, match="was passed as an object"):
        fit([method()], options={"rkd": {"angle": 7.0}})


def test_a_data_object_gives_the_same_numbers_as_its_spec(plain):
    assert rows(fit(data=load_data(DATA))) == rows(plain)


class Observer:
    """Notes what it is told."""

    def __init__(self):
        self.seen = []

    @hookimpl
    def kdengine_before_fit(self, run):
        self.seen.append(("before", run.title))

    @hookimpl
    def kdengine_after_step(self, done, total):
        self.seen.append(("step", done, total))

    @hookimpl
    def kdengine_after_epoch(self, run, record):
        assert (run.folder.path / "metrics.jsonl").read_text().count("\n") == record["epoch"]
        assert run.folder.load_state(), "what an observer is told of has been saved"
        self.seen.append(("epoch", record["epoch"]))

    @hookimpl
    def kdengine_after_fit(self, run, result):
        assert (run.folder.path / "result.json").is_file()
        self.seen.append(("after", result.top1))

    @hookimpl
    def kdengine_on_error(self, error):
        self.seen.append(("error", str(error)))


def test_observers_are_told_of_everything_in_order():
    observer = Observer()
    result = fit(["st"], epochs=1, observers=[observer])
    steps = [("step", number, 3) for number in (1, 2, 3)]
    title = ("before", f"resnet8 <- module:CifarResNet (st) on {DATA}")
    assert observer.seen == [title, *steps, ("epoch", 1), ("after", result.top1)]


def test_observers_are_told_of_errors_and_a_later_run_on_the_same_registry_does_not_know_them():
    observer, registry = Observer(), Registry()
    with pytest.raises(ValueError, match="no way"):
        fit([Failing()], observers=[observer], registry=registry)
    assert observer.seen[1:] == [("error", "no way")]
    fit(epochs=1, registry=registry)
    assert len(observer.seen) == 2


def nothing_written(path):
    return not list(path.iterdir())


@pytest.mark.parametrize(
    ("kind", "said", "message"),
    [
        (SettingsError, {"student": None}, "No student"),
        (ModelError, {"student": "resnet9"}, "'resnet8'"),
        (SettingsError, {"plugins": ["st"], "teacher": None}, "needs a teacher"),
        (PluginError, {"plugins": ["sd"], "teacher": "resnet8"}, "no plugin 'sd'"),
        (TapError, {"plugins": ["at"], "options": {"at": {"taps": "layer2.0.cnv1"}}}, "'layer2.0.conv1'"),
        (TapError, {"plugins": ["at"], "options": {"at": {"taps": "embedding"}}}, r"has \[2, 64\].*maps \[B, C, H, W\]"),
        (SettingsError, {"plugins": ["rkd"], "options": {"rkd": {"angel": 1}}}, "'angle'"),
        (SettingsError, {"learning_rate": 3}, "learning_rate"),
        (SettingsError, {"optimizer": "sdg"}, "'sgd'"),
        (SettingsError, {"teacher": "resnet8", "plugins": ["st"], "teacher_train": {"optimizer": "sdg"}}, "'sgd'"),
        (SettingsError, {"device": "toaster"}, "toaster"),
        (DataError, {"data": "digts"}, "'digits'"),
        (DataError, {"data": "imagefolder:nowhere"}, "nowhere"),
        (ModelError, {"student": "resnet8@num_classes=7"}, "10 classes"),
        (ModelError, {"plugins": ["st"], "teacher_weights": "nowhere.safetensors"}, "nowhere"),
    ],
)
def test_a_mistake_is_told_before_anything_is_written(kind, said, message, tmp_path, monkeypatch):
    monkeypatch.setenv("KDENGINE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(kind, match=message):
        fit(**said)
    assert nothing_written(tmp_path)


def test_all_faults_of_settings_and_of_options_are_told_at_once():
    with pytest.raises(SettingsError) as caught:
        fit(["rkd", "st"], lr=-1, epochs=0, options={"rkd": {"angel": 1}, "st": {"temperature": 0}})
    message = str(caught.value)
    assert all(name in message for name in ("train.lr", "train.epochs", "rkd.angel", "'angle'", "st.temperature"))


def test_a_loader_to_measure_on_alone_is_refused():
    with pytest.raises(SettingsError, match="takes a val_loader only together with a train_loader"):
        Engine(None, "resnet8", **FAST).fit(val_loader=[])


def test_a_second_run_into_the_same_folder_is_refused(tmp_path):
    fit(epochs=1, out=tmp_path / "run")
    with pytest.raises(SettingsError, match="already holds a run"):
        fit(epochs=1, out=tmp_path / "run")


def test_the_training_may_be_given_as_settings_a_mapping_or_keywords():
    for given in ({"train": TrainSettings(lr=0.5, epochs=3)}, {"train": {"lr": 0.5, "epochs": 3}}, {"lr": 0.5, "epochs": 3}):
        assert Engine(None, "resnet8", **given).settings.train == TrainSettings(lr=0.5, epochs=3)
    settings = Engine(None, "resnet8", recipe="sseung2019", train=TrainSettings(momentum=0.5), momentum=0.25).settings
    assert settings.train.momentum == 0.25
    assert settings.train.epochs != TrainSettings().epochs, "what was not set is left to the recipe"


def test_a_recipe_may_name_the_student(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('student = "resnet8"\nseed = 3\n')
    assert Engine(recipe=file).settings.student == "resnet8"
    assert Engine(recipe=file, student="resnet14").settings.student == "resnet14"
    file.write_text("seed = 3\n")
    with pytest.raises(SettingsError, match="student"):
        Engine(recipe=file)


def own_optimizer(parameters):
    return torch.optim.Adam(parameters, lr=0.01)


def own_scheduler(optimizer):
    return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)


SMALL_RUN = {"data": "digits@train=24@test=16", "batch_size": 8, "epochs": 2, "precision": "fp32", "device": "cpu"}


class StopAt:
    """Interrupts a run after so many steps."""

    def __init__(self, steps):
        self.left = steps

    @hookimpl
    def kdengine_after_step(self, run):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def test_optimizer_and_scheduler_of_ones_own_train_and_are_recorded_by_name(tmp_path):
    own = {"optimizer": own_optimizer, "scheduler": own_scheduler}
    whole = Engine(None, "resnet8", out=tmp_path / "whole", **own, **SMALL_RUN).fit()
    assert [row["lr"] for row in whole.history] == [0.01 * 0.5**2, 0.01 * 0.5**5]  # stepped after each of 3 updates an epoch
    names = {"optimizer": "factory:own_optimizer", "scheduler": "factory:own_scheduler"}
    assert whole.facts["settings"]["factories"] == names
    with pytest.raises(KeyboardInterrupt):
        Engine(None, "resnet8", out=tmp_path / "part", observers=[StopAt(4)], **own, **SMALL_RUN).fit()
    with pytest.raises(SettingsError, match=r"optimizer=\.\.\. \(factory:own_optimizer\)"):
        Engine.resume(tmp_path / "part").fit()
    resumed = Engine.resume(tmp_path / "part", **own).fit()
    for name, value in whole.student.state_dict().items():
        assert torch.equal(value, resumed.student.state_dict()[name]), name


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"optimizer": lambda parameters: 5}, "returned a int; return a torch.optim.Optimizer"),
        ({"optimizer": lambda parameters: 1 / 0}, "failed: ZeroDivisionError"),
        ({"optimizer": lambda parameters: None}, "returned None"),
        ({"scheduler": lambda optimizer: 5}, "which has no step()"),
        ({"optimizer": torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1)}, "optimizer = SGD(...) is an object"),
        ({"optimizer": torch.optim.LBFGS}, "The optimizer LBFGS cannot be used: its step() needs a closure"),
        (
            {"scheduler": torch.optim.lr_scheduler.ReduceLROnPlateau},
            "cannot be used: its step() needs a score",
        ),
    ],
)
def test_a_factory_that_makes_something_else_is_refused_before_training(own, said, tmp_path):
    with pytest.raises(SettingsError) as caught:
        Engine(None, "resnet8", out=tmp_path / "run", **own, **SMALL_RUN).plan()
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"teacher": nn.Linear(2, 2).state_dict()}, "teacher = .*A state dict is loaded into a module first"),
        ({"teacher": nn.Linear}, "teacher = .*give the name of a network or an nn.Module"),
        ({"student": nn.Linear}, "student = .*a class or a function is called"),
        ({"data": [1, 2]}, r"data = \[1, 2\]: .* passed to fit\(train, test\)"),
        ({"train": 3}, "train = 3: give kdengine.TrainSettings"),
    ],
)
def test_arguments_of_another_kind_are_answered_with_what_to_give(given, said):
    with pytest.raises(KDError, match=said):
        Engine(**{"student": "resnet8", **given})


def test_a_device_may_be_one_of_torch():
    assert Engine(None, "resnet8", device=torch.device("cpu")).settings.train.device == "cpu"


def test_a_comparison_calls_them_methods():
    with pytest.raises(SettingsError, match=r"methods=\[\.\.\.\]"):
        Comparison("resnet8", "resnet8", plugins=["st"])
