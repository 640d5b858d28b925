import json

import pytest

from kdengine import Comparison, Engine
from kdengine.config.values import read_toml
from kdengine.networks.models import ModelSource
from kdengine.plugins.registry import Registry
from kdengine.runs import session as sessions
from kdengine.runs.lane_specs import LaneSpec
from kdengine.training.defaults import OPEN

VIT = "timm:vit_tiny_patch16_224@img_size=32@patch_size=8@depth=2@embed_dim=32@num_heads=2"
DATA = "digits@train=64@test=32"
FAST = {"precision": "fp32", "device": "cpu", "batch_size": 32}
ADAMW = {"optimizer": "adamw", "lr": 5e-4, "weight_decay": 0.05, "warmup_epochs": 1, "clip_grad": 1.0}
SGD = {"optimizer": "sgd", "lr": 0.1, "weight_decay": 5e-4, "warmup_epochs": 0, "clip_grad": 0.0}


def opened(settings):
    return {name: settings[name] for name in OPEN}


def test_student_and_teacher_are_trained_as_suits_each_and_the_plan_says_why(caplog):
    caplog.set_level("INFO", "kdengine")
    plan = Engine("resnet8", VIT, ["st"], DATA, epochs=10, **FAST).plan()
    assert opened(plan.settings.train.model_dump()) == ADAMW
    assert plan.settings.teacher_train == SGD
    described = plan.describe()["training"]
    assert described["student"]["why"]["optimizer"] == "usual for a network with attention"
    assert described["teacher"]["summary"] == "SGD, lr 0.1: a convolutional network from scratch"
    assert f"{VIT} is trained with {described['student']['summary']}" in caplog.messages
    assert plan.lane.settings == plan.settings.train
    caplog.clear()
    again = Engine.of(plan.settings).plan()
    assert again.settings == plan.settings
    assert again.describe()["training"]["student"]["summary"].endswith(": as set")
    assert "is trained with" not in caplog.text


def test_run_toml_does_not_depend_on_the_rules_and_the_optimizer_does_what_it_says(tmp_path, monkeypatch):
    run = Engine(None, VIT, data=DATA, epochs=1, lr=0.002, out=tmp_path / "run", **FAST).fit()
    stored = read_toml(tmp_path / "run" / "run.toml")["train"]
    assert opened(stored) == ADAMW | {"lr": 0.002, "warmup_epochs": 0}

    def unneeded(network, settings, **facts):
        assert all(getattr(settings, name) is not None for name in OPEN)
        return follow(network, settings, **facts)

    follow = sessions.follow
    monkeypatch.setattr(sessions, "follow", unneeded)
    repeated = Engine(recipe=tmp_path / "run" / "run.toml", student=VIT, out=tmp_path / "again").fit()
    assert [row["loss"] for row in repeated.history] == [row["loss"] for row in run.history]


def test_a_student_that_starts_from_weights_gets_a_tenth_of_the_rate_but_no_teacher_and_no_module_of_ones_own(tmp_path):
    first = Engine(None, "resnet8", data=DATA, epochs=1, out=tmp_path / "run", **FAST).fit()
    tuned = Engine("resnet8", "resnet8", ["st"], DATA, student_weights=first.folder, **FAST).plan()
    assert (tuned.settings.train.lr, tuned.settings.teacher_train["lr"]) == (0.01, 0.1)
    assert Engine(None, first.student, data=DATA, **FAST).plan().settings.train.lr == 0.1
    loaded = Engine("resnet8", "resnet8", ["st"], DATA, teacher_weights=first.folder, **FAST).plan()
    assert loaded.settings.teacher_train == {}
    assert set(loaded.training.followed) == {"student"}


@pytest.mark.parametrize(
    ("spec", "pretrained"),
    [
        ("timm:resnet18@pretrained=true", True),
        ("timm:resnet18", False),
        ("torchvision:resnet18@weights=DEFAULT", True),
        ("hf-hub:some/thing", True),
        ("hf-hub:some/thing@pretrained=false", False),
        ("resnet8", False),
    ],
)
def test_a_spec_says_whether_it_starts_from_trained_weights_whatever_the_classes(spec, pretrained):
    assert ModelSource(spec, {"num_classes": 7}, (3, 32, 32), Registry()).is_pretrained is pretrained


def test_the_cache_finds_a_teacher_by_what_it_was_trained_with_not_by_what_was_left_open(tmp_path):
    def distil(**teacher_train):
        train = {"epochs": 1, **teacher_train}
        options = {"data": DATA, "epochs": 1, "lr": 0.02, "seed": 11, "teacher_train": train}
        return Engine("resnet8", "resnet8", ["st"], out=tmp_path / f"{len(train)}", **options, **FAST).fit().facts["teacher"]

    assert not distil()["cached"]
    assert distil(**SGD | {"lr": 0.02})["cached"]


def test_lanes_share_the_students_settings_and_a_lane_with_its_own_gets_what_goes_with_them(tmp_path):
    lanes = [LaneSpec("adam", (), train={"optimizer": "adamw"}), LaneSpec("slow", (), train={"lr": 0.01})]
    Comparison("resnet8", "resnet8", lanes, DATA, epochs=1, out=tmp_path / "comparison", **FAST).fit()
    trained = {
        lane: opened(read_toml(tmp_path / "comparison/trial-1" / lane / "run.toml")["train"]) for lane in ("adam", "slow")
    }
    assert trained == {"adam": SGD | {"optimizer": "adamw", "lr": 5e-4, "weight_decay": 0.05}, "slow": SGD | {"lr": 0.01}}
    note = json.loads((tmp_path / "comparison" / "comparison.json").read_text())
    assert opened(note["settings"]["train"]) == SGD
    assert [lane["train"] for lane in note["lanes"]] == [
        {"lr": 5e-4, "weight_decay": 0.05, "optimizer": "adamw"},
        {"lr": 0.01},
    ]


def test_assistants_and_peers_are_trained_as_the_student_is():
    options = {"takd": {"assistants": [VIT]}}
    plan = Engine("resnet14", "resnet8", ["takd"], DATA, options=options, **FAST).plan()
    assert len(plan.lane.chain) == 2
    assert opened(plan.lane.settings.model_dump()) == SGD


@pytest.mark.slow
def test_a_small_vision_transformer_leaves_chance_on_digits(tmp_path):
    student = "timm:vit_tiny_patch16_224@img_size=32@patch_size=8@depth=4@embed_dim=64@num_heads=4"
    result = Engine(None, student, epochs=12, augment="none", precision="fp32", device="cpu", out=tmp_path / "run").fit()
    assert result.best_top1 > 25
