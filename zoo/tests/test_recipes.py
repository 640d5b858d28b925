import tomllib
from pathlib import Path

import kdzoo
import pytest
import timm
from kdplugin_at import AttentionTransfer
from kdplugin_fitnet import FitNet
from kdplugin_rkd import RKD
from kdplugin_st import SoftTargets

from kdengine import Engine, Registry
from kdengine.optim import check_optimizer
from kdengine.settings import Settings

METHODS = {method.name: method for method in (AttentionTransfer, FitNet, RKD, SoftTargets)}
FOLDER = Path(kdzoo.__file__).parent / "recipes"
NAMES = ["bhheo2019", "motakuss2023", "repdistiller", "seed004", "sseung2019", "tootouch2021"]
SEED = {
    "epochs": 100,
    "batch_size": 128,
    "optimizer": "sgd",
    "lr": 0.1,
    "momentum": 0.9,
    "nesterov": True,
    "weight_decay": 5e-4,
    "schedule": "multistep",
    "milestones": (0.3, 0.6, 0.8),
    "decay": 0.1,
    "augment": "crop-flip",
    "reset_optimizer": True,
}
TRAIN = {
    "sseung2019": SEED,
    "bhheo2019": SEED,
    "tootouch2021": {"epochs": 100, "batch_size": 128, "lr": 0.1, "schedule": "cosine"},
    "motakuss2023": {
        "epochs": 100,
        "batch_size": 128,
        "optimizer": "adam",
        "lr": 1e-3,
        "weight_decay": 0.0,
        "schedule": "constant",
        "augment": "none",
        "reset_optimizer": True,
    },
    "seed004": {
        "epochs": 164,
        "batch_size": 128,
        "optimizer": "sgd",
        "lr": 0.1,
        "momentum": 0.9,
        "nesterov": False,
        "weight_decay": 1e-4,
        "schedule": "multistep",
        "decay": 0.1,
        "augment": "crop-flip",
    },
    "repdistiller": {
        "epochs": 240,
        "batch_size": 64,
        "optimizer": "sgd",
        "lr": 0.05,
        "momentum": 0.9,
        "nesterov": False,
        "weight_decay": 5e-4,
        "schedule": "multistep",
        "decay": 0.1,
        "augment": "crop-flip",
    },
}
EPOCHS = {
    "sseung2019": [30, 60, 80],
    "bhheo2019": [30, 60, 80],
    "seed004": [81, 122],
    "repdistiller": [150, 180, 210],
}
OPTIONS = [
    ("sseung2019", "st", {"alpha": 0.3, "temperature": 3.0, "t_squared": False}),
    ("sseung2019", "fitnet", {"side": "teacher", "taps": ("stage2", "stage3"), "reduction": "mean", "hint_epochs": 0.4}),
    ("sseung2019", "at", {"beta": 1000.0, "half": True}),
    ("sseung2019", "rkd", {"taps": None, "l2_normalize": True, "distance": 25.0, "angle": 50.0}),
    ("bhheo2019", "st", {"alpha": 0.3, "temperature": 3.0, "t_squared": False}),
    ("bhheo2019", "fitnet", {"side": "teacher", "taps": ("stages",), "reduction": "sum_chw", "hint_epochs": 0.4}),
    ("bhheo2019", "at", {"beta": 1000.0, "half": True}),
    ("bhheo2019", "rkd", {"taps": ("logits",), "l2_normalize": True, "distance": 100.0, "angle": 200.0}),
    ("tootouch2021", "st", {"alpha": 0.9, "temperature": 5.0, "t_squared": False, "soft_term": "ce"}),
    ("motakuss2023", "st", {"alpha": 1.0, "task": 1.0, "temperature": 10.0, "hard_temperature": True, "t_squared": False}),
    ("motakuss2023", "fitnet", {"kernel": 3, "hint_epochs": 1.0, "side": "student", "taps": None}),
    ("seed004", "st", {"alpha": 0.9, "temperature": 4.0, "t_squared": True}),
    ("seed004", "fitnet", {"mode": "two_stage"}),
    ("seed004", "at", {"beta": 1000.0, "half": False}),
    ("repdistiller", "st", {"alpha": 0.9, "temperature": 4.0, "t_squared": True}),
    ("repdistiller", "fitnet", {"mode": "joint", "weight": 100.0, "taps": None}),
    ("repdistiller", "at", {"beta": 1000.0, "half": False}),
    ("repdistiller", "rkd", {"distance": 25.0, "angle": 50.0, "l2_normalize": False}),
]


def recipe(name):
    return tomllib.loads((FOLDER / f"{name}.toml").read_text())


def settings(name):
    return Settings.checked({**recipe(name), "student": "resnet8"})


def test_these_recipes_are_shipped_and_found_by_name():
    assert sorted(file.stem for file in FOLDER.glob("*.toml")) == NAMES
    assert [Registry().recipe(name).stem for name in NAMES] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_trains_as_its_source_does(name):
    found = settings(name).train.model_dump()
    assert {key: found[key] for key in TRAIN[name]} == TRAIN[name]
    check_optimizer(settings(name).train)


@pytest.mark.parametrize("name", EPOCHS)
@pytest.mark.parametrize("steps", [1, 391, 782])
def test_the_rate_falls_at_the_very_epochs_of_the_source(name, steps):
    train = settings(name).train
    updates = train.epochs * steps
    assert [round(mark * updates) for mark in train.milestones] == [epoch * steps for epoch in EPOCHS[name]]


def test_the_teacher_of_motakuss_alone_is_trained_otherwise():
    teacher = settings("motakuss2023").teacher_training
    assert (teacher.schedule, teacher.milestones, teacher.lr, teacher.optimizer) == ("multistep", (0.1, 0.15), 1e-3, "adam")
    assert [name for name in NAMES if "teacher_train" in recipe(name)] == ["motakuss2023"]


@pytest.mark.parametrize(("name", "method", "facts"), OPTIONS)
def test_a_recipe_sets_a_method_as_its_source_does(name, method, facts):
    options = METHODS[method](**settings(name).options[method]).options.model_dump()
    assert {key: options[key] for key in facts} == facts


def test_every_options_table_of_every_recipe_is_pinned_here():
    assert {(name, method) for name in NAMES for method in recipe(name)["options"]} == {(n, m) for n, m, _ in OPTIONS}


@pytest.mark.parametrize("name", NAMES)
def test_no_recipe_forces_networks_or_data_and_each_tells_its_source_and_its_limits(name):
    text = (FOLDER / f"{name}.toml").read_text()
    assert set(recipe(name)) <= {"train", "teacher_train", "options"}
    assert f"kdengine run --recipe {name}" in text
    assert "What is not" in text


def test_a_run_takes_its_settings_from_a_recipe_and_what_is_said_wins(tmp_path):
    teacher = timm.create_model("resnet20", num_classes=10)
    engine = Engine(
        teacher,
        "resnet8",
        ["fitnet", "st"],
        "digits@train=64@test=16",
        recipe="sseung2019",
        epochs=2,
        batch_size=8,
        device="cpu",
        out=tmp_path / "run",
    )
    history = engine.fit().history
    assert [record["stage"] for record in history] == ["hint", "joint", "joint"]
    # at the last of 8 and of 16 updates; the rate falls after 5, 10 and 13
    assert [record["lr"] for record in history] == pytest.approx([0.1, 0.01, 0.0001])
    assert set(history[-1]["terms"]) == {"task", "st.soft"}
