import itertools
import tomllib
from pathlib import Path

import kdzoo
import pytest
import timm
import torch

from kdengine import Engine, Registry
from kdengine.config.settings import Settings
from kdengine.plugins.recipes import recipe_values
from kdengine.testing import built, make_step
from kdengine.training.optimizer import check_optimizer

FOLDER = Path(kdzoo.__file__).parent / "recipes"
NAMES = ["bhheo2019", "mdistiller", "motakuss2023", "repdistiller", "seed004", "sseung2019", "tootouch2021"]
STARTS = ["multilabel", "segmentation", "unlabelled"]
"""Starting points for tasks, which have no one source."""
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
CRD = {
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
    "repdistiller": CRD,
    "mdistiller": CRD,
}
EPOCHS = {
    "sseung2019": [30, 60, 80],
    "bhheo2019": [30, 60, 80],
    "seed004": [81, 122],
    "repdistiller": [150, 180, 210],
    "mdistiller": [150, 180, 210],
}
OPTIONS = [
    ("sseung2019", "st", {"alpha": 0.3, "temperature": 3.0, "t_squared": False}),
    ("sseung2019", "fitnet", {"side": "teacher", "taps": ("stage2", "stage3"), "reduction": "mean", "hint_epochs": 0.4}),
    ("sseung2019", "at", {"beta": 1000.0, "half": True}),
    ("sseung2019", "rkd", {"taps": None, "l2_normalize": True, "count_diagonal": True, "distance": 25.0, "angle": 50.0}),
    ("sseung2019", "fsp", {"mode": "two_phase", "fsp_epochs": 0.4, "taps": ("stage2", "stage3"), "pool": "max"}),
    ("sseung2019", "svd", {"k": 4, "sigma_weight": True, "clip_to_task": True, "taps": ("stage2", "stage3")}),
    ("sseung2019", "ab", {"init_epochs": 0.4, "margin": 1.0, "taps": ("stage2", "stage3")}),
    ("bhheo2019", "st", {"alpha": 0.3, "temperature": 3.0, "t_squared": False}),
    ("bhheo2019", "fitnet", {"side": "teacher", "taps": ("stages",), "reduction": "sum_chw", "hint_epochs": 0.4}),
    ("bhheo2019", "at", {"beta": 1000.0, "half": True}),
    ("bhheo2019", "rkd", {"taps": ("logits",), "l2_normalize": True, "distance": 100.0, "angle": 200.0}),
    ("bhheo2019", "fsp", {"mode": "two_phase", "fsp_epochs": 0.4, "taps": ("stages",), "reduction": "sum_half"}),
    ("bhheo2019", "svd", {"k": 4, "sigma_weight": False, "clip_to_task": True}),
    ("bhheo2019", "ab", {"init_epochs": 0.4, "margin": 1.0, "taps": ("stages",), "connector": "always"}),
    ("bhheo2019", "dml", {"symmetric": True, "temperature": 1.0}),
    ("tootouch2021", "st", {"alpha": 0.9, "temperature": 5.0, "t_squared": False, "soft_term": "ce"}),
    ("motakuss2023", "st", {"alpha": 1.0, "task": 1.0, "temperature": 10.0, "hard_temperature": True, "t_squared": False}),
    ("motakuss2023", "fitnet", {"kernel": 3, "hint_epochs": 1.0, "side": "student", "taps": None}),
    ("motakuss2023", "takd", {"assistants": ("cnn12",), "teach_with": "last"}),
    ("motakuss2023", "mbd-delta", {"temperature": 1.0, "double_temperature": True, "hard_temperature": True}),
    ("motakuss2023", "mbd-hard", {"temperature": 1.0, "double_temperature": True, "hard_temperature": True}),
    ("motakuss2023", "mbd-soft", {"temperature": 1.0, "double_temperature": True, "hard_temperature": True}),
    ("seed004", "st", {"alpha": 0.9, "temperature": 4.0, "t_squared": True}),
    ("seed004", "fitnet", {"mode": "two_phase"}),
    ("seed004", "at", {"beta": 1000.0, "half": False}),
    ("seed004", "nst", {"kernel": "poly", "beta": 50.0}),
    ("seed004", "fsp", {"mode": "two_phase"}),
    ("repdistiller", "st", {"alpha": 0.9, "temperature": 4.0, "t_squared": True}),
    ("repdistiller", "fitnet", {"mode": "joint", "weight": 100.0, "taps": None}),
    ("repdistiller", "at", {"beta": 1000.0, "half": False}),
    ("repdistiller", "rkd", {"distance": 25.0, "angle": 50.0, "l2_normalize": False}),
    ("repdistiller", "nst", {"kernel": "poly", "beta": 50.0, "taps": None}),
    ("repdistiller", "sp", {"taps": ("stage-1",), "beta": 3000.0}),
    ("repdistiller", "fsp", {"mode": "two_phase", "pool": "avg", "fsp_epochs": 0.125}),
    ("repdistiller", "svd", {"clip_to_task": False}),
    ("repdistiller", "ab", {"init_epochs": 0.125, "margin": 1.0}),
    ("mdistiller", "st", {"alpha": 0.9, "temperature": 4.0, "t_squared": True}),
    ("mdistiller", "fitnet", {"mode": "joint", "weight": 100.0, "taps": None}),
    ("mdistiller", "at", {"beta": 1000.0, "half": False}),
    ("mdistiller", "rkd", {"distance": 25.0, "angle": 50.0, "l2_normalize": False}),
    ("mdistiller", "nst", {"kernel": "poly", "beta": 50.0, "taps": None}),
    ("mdistiller", "sp", {"taps": ("stage-1",), "beta": 3000.0}),
    ("mdistiller", "svd", {"clip_to_task": False, "k": 1, "extra": 3}),
    ("mdistiller", "vid", {"weight": 1.0, "init_variance": 5.0, "taps": None}),
    ("mdistiller", "pkt", {"beta": 30000.0, "taps": None}),
    ("mdistiller", "reviewkd", {"beta": 5.0, "warmup_epochs": 20.0, "taps": None}),
    ("repdistiller", "vid", {"weight": 1.0, "init_variance": 5.0, "taps": None}),
    ("repdistiller", "pkt", {"beta": 30000.0, "taps": None}),
    ("mdistiller", "dkd", {"alpha": 1.0, "beta": 8.0, "temperature": 4.0, "warmup_epochs": 20.0}),
    ("mdistiller", "crd", {"beta": 0.8, "mode": "memory", "length": 128, "negatives": 16384, "temperature": 0.07}),
    ("mdistiller", "ofd", {"scale": 1e-3, "margins": "norm"}),
    ("repdistiller", "ft", {"beta": 200.0, "rate": 0.5, "epochs": 0.125, "by_position": True}),
    ("repdistiller", "crd", {"beta": 0.8, "mode": "memory", "length": 128, "negatives": 16384, "temperature": 0.07}),
    ("repdistiller", "cc", {"form": "successors", "beta": 0.02, "width": 128}),
]
METHODS = (
    *("ab", "at", "dml", "fitnet", "fsp", "jacobian", "mbd-delta", "mbd-hard", "mbd-soft"),
    *("nst", "rkd", "sp", "st", "svd", "takd"),
    *("cc", "crd", "dkd", "ft", "itrd", "ofd", "pkt", "reviewkd", "srd", "vid"),
)
"""Names that options may be for; a misspelt one would do nothing in a run."""


@pytest.fixture(scope="module")
def registry():
    found = Registry()
    found.load_all()
    return found


@pytest.fixture(scope="module")
def method(registry):
    """An installed method by its name; whoever has not installed it is told so."""

    def named(name):
        if name not in registry.offered("methods"):
            pytest.skip(f"{name} is not installed")
        return registry.offered("methods")[name]

    return named


def recipe(name):
    return tomllib.loads((FOLDER / f"{name}.toml").read_text())


def settings(name):
    return Settings.checked({**recipe(name), "student": "resnet8"})


def test_these_recipes_are_shipped_and_found_by_name():
    assert sorted(file.stem for file in FOLDER.glob("*.toml")) == sorted(NAMES + STARTS)
    assert [Registry().recipe(name).stem for name in NAMES + STARTS] == NAMES + STARTS


@pytest.mark.parametrize("name", STARTS)
def test_the_start_for_a_task_trains_on_the_data_of_this_task(name):
    data = {"segmentation": "digit-scenes@target=masks", "multilabel": "digit-scenes", "unlabelled": "digits"}[name]
    networks = ["seg:resnet8"] * 2 if name == "segmentation" else ["resnet8"] * 2
    method = "foundation" if name == "unlabelled" else "st"
    engine = Engine(*networks, [method], f"{data}@train=40@test=8", recipe=name, task=name, teacher_weights=None)
    assert engine.plan().settings.train.epochs == recipe(name)["train"]["epochs"]
    assert f"kdengine run --recipe {name}" in (FOLDER / f"{name}.toml").read_text()


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


@pytest.mark.parametrize(("name", "given", "facts"), OPTIONS)
def test_a_recipe_sets_a_method_as_its_source_does(name, given, facts, method):
    options = method(given)(**settings(name).options[given]).options.model_dump()
    assert {key: options[key] for key in facts} == facts


def test_every_options_table_of_every_recipe_is_pinned_here():
    assert {(name, given) for name in NAMES for given in recipe(name)["options"]} == {(n, m) for n, m, _ in OPTIONS}
    assert {given for _, given, _ in OPTIONS} <= set(METHODS)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("given", METHODS)
def test_a_recipe_loads_with_every_method_and_brings_options_that_it_has(name, given, method, registry):
    """Of that method and its companions alone."""
    used = {given, *getattr(method(given), "companions", ())}
    found = Settings.checked({**recipe_values(name, [given], registry), "student": "resnet8"}).options
    assert set(found) == used & set(recipe(name)["options"])
    for each in used:
        method(each)(**found.get(each, {}))


def test_a_composition_takes_the_options_of_all_its_methods(method, registry):
    method("takd")
    assert set(recipe_values("motakuss2023", ["multi"], registry)["options"]) == {"takd", "fitnet", "st"}


def weights_by_pair(name):
    """The table in the head of a recipe: (teacher, student, method, option, weight)."""
    lines = [line.removeprefix("#").split() for line in (FOLDER / f"{name}.toml").read_text().splitlines()]
    start = next(number for number, words in enumerate(lines) if words[:2] == ["teacher", "student"])
    rows = itertools.takewhile(bool, lines[start + 1 :])
    cells = [
        (*row[:2], *head.split("."), weight) for row in rows for head, weight in zip(lines[start][2:], row[2:], strict=True)
    ]
    return [(*names, float(weight)) for *names, weight in cells if weight != "-"]


def test_the_weights_by_pair_are_of_networks_of_the_zoo(registry):
    rows = weights_by_pair("mdistiller")
    assert {name for row in rows for name in row[:2] if registry.model(name) is None} == set()
    assert ("resnet110", "resnet32", "dkd", "beta", 2.0) in rows
    assert len(rows) == 19


@pytest.mark.parametrize("given", ["dkd", "reviewkd"])
def test_the_weights_by_pair_are_those_of_the_presets(given, method):
    """Named by the pair or, where the teacher plays no part, by the student."""
    kind, differing = method(given), []
    for teacher, student, name, option, weight in weights_by_pair("mdistiller"):
        named = [each for each in (f"{teacher}-{student}", student) if each in kind.presets]
        if name == given:
            options = kind(preset=named[0]).options if named else kind().options
            differing += [] if getattr(options, option) == weight else [(teacher, student, named, weight)]
    assert differing == []


@pytest.mark.parametrize("name", ["sseung2019", "bhheo2019"])
@pytest.mark.parametrize("given", ["fitnet", "fsp", "ab"])
def test_forty_epochs_come_before_the_hundred(name, given, method):
    (phase,) = method(given)(**settings(name).options[given]).phases()
    assert round(phase.epochs * settings(name).train.epochs) == 40


REGRESSORS = [
    ("cnn8", "cnn12", 74_112),
    ("cnn12", "cnn16", 18_624),
    ("cnn8", "cnn16", 37_248),
    ("cifar_resnet50", "resnet71", 1_181_184),
    ("resnet71", "resnet98", 295_680),
    ("cifar_resnet50", "resnet98", 591_360),
]


@pytest.mark.parametrize(("teacher", "student", "parameters"), REGRESSORS)
def test_the_regressors_of_motakuss_have_as_many_parameters_as_at_the_source(teacher, student, parameters, method, shell):
    taps = []
    for name in (student, teacher):
        extractor = shell(name, features_only=True)
        place = extractor.feature_info.module_name().index("layer2")
        taps.append({"stage2": torch.zeros(extractor(torch.zeros(2, 3, 32, 32, device="meta"))[place].shape)})
    hint = method("fitnet")(**settings("motakuss2023").options["fitnet"])
    built(hint, make_step(*taps, rectified=("stage2",)))
    assert sum(value.numel() for value in hint.parameters()) == parameters


@pytest.mark.parametrize("name", NAMES)
def test_the_networks_that_a_recipe_names_exist(name, registry):
    """Of the zoo, that is; the command in its head runs them."""
    (line,) = [line for line in (FOLDER / f"{name}.toml").read_text().splitlines() if "--teacher" in line][:1]
    words = line.split()
    for flag in ("--teacher", "--student"):
        assert registry.model(words[words.index(flag) + 1]) is not None
    for assistant in recipe(name)["options"].get("takd", {}).get("assistants", ()):
        assert registry.model(assistant) is not None


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
    assert [record["phase"] for record in history] == ["hint", "joint", "joint"]
    # at the last of 8 and of 16 updates; the rate falls after 5, 10 and 13
    assert [record["lr"] for record in history] == pytest.approx([0.1, 0.01, 0.0001])
    assert set(history[-1]["terms"]) == {"task", "st.soft"}
