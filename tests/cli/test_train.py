import json
import shutil

import pytest

from kdengine import Engine


def test_a_network_is_trained_by_itself(kdengine, small, here):
    said = kdengine("train", "--model", "resnet8", *small, "--out", "alone", "--json")
    assert said.code == 0, said.err
    assert said.json["teacher"] is None
    assert said.json["methods"] == []
    rows = [json.loads(line) for line in (here / "alone" / "metrics.jsonl").read_text().splitlines()]
    assert [row["terms"].keys() for row in rows] == [{"task"}, {"task"}]
    assert said.json["student"]["top1"] == rows[-1]["test_top1"]
    assert "Training resnet8 on digits@train=32@test=32: 2 epochs on cpu in fp32, seed 0" in said.err


def test_its_run_toml_repeats_it(kdengine, small, here):
    first = kdengine("train", "--model", "resnet8", *small, "--epochs", 1, "--out", "one", "--json").json
    second = kdengine("train", "one/run.toml", "--out", "two", "--json").json
    assert first["student"]["top1"] == second["student"]["top1"]
    assert first["settings"] == second["settings"]


def test_the_network_must_be_named_and_a_teacher_is_not_for_it(kdengine, here):
    said = kdengine("train", "--data", "digits")
    assert said.code == 2
    assert "no network to train" in said.err
    (here / "run.toml").write_text('student = "resnet8"\nteacher = "resnet14"\nmethods = ["st"]\n')
    said = kdengine("train", "run.toml")
    assert said.code == 2
    assert "'kdengine run'" in said.err
    assert [path.name for path in here.iterdir()] == ["run.toml"]


def test_dropout_in_the_spec_and_a_recipe_file_are_taken(kdengine, small, here):
    (here / "mine.toml").write_text("seed = 4\n[train]\nmomentum = 0.5\n[options.st]\nalpha = 0.5\n")
    spec = "resnet8@drop_rate=0.5"
    said = kdengine("train", "--model", spec, "--recipe", "mine.toml", *small, "--epochs", 1, "--json")
    assert said.code == 0, said.err
    settings = said.json["settings"]
    assert (settings["seed"], settings["train"]["momentum"], settings["train"]["lr"]) == (4, 0.5, 0.02)
    assert settings["student"] == spec


def test_it_starts_from_the_weights_of_a_run_and_warns_where_a_repetition_would_start_from_others(kdengine, small, here):
    kdengine("train", "--model", "resnet8", *small, "--epochs", 1, "--out", "one")
    tuned = kdengine("train", "--model", "resnet8", "--weights", "one", *small, "--epochs", 1, "--out", "two")
    assert "resnet8 starts from 'one': loaded all weights" in tuned.err
    shutil.copy(here / "two" / "student.safetensors", here / "one" / "student.safetensors")
    repeated = kdengine("train", "two/run.toml", "--out", "three")
    assert "The weights in 'one' have changed since the run in two" in " ".join(repeated.err.split())


def test_a_run_that_was_cut_off_goes_on_and_one_with_a_teacher_is_refused(kdengine, here, pull):
    settings = {"data": "digits@train=48@test=16", "batch_size": 16, "epochs": 2, "precision": "fp32", "device": "cpu"}
    with pytest.raises(RuntimeError, match="plug"):
        Engine(None, "resnet8", out="one", observers=[pull(4)], **settings).fit()
    text = (here / "one" / "run.toml").read_text(encoding="utf-8")
    (here / "one" / "run.toml").write_text(f'teacher = "resnet8"\n{text}', encoding="utf-8")
    refused = kdengine("train", "--resume", "one")
    assert refused.code == 2
    assert "'kdengine run'" in refused.err
    (here / "one" / "run.toml").write_text(text, encoding="utf-8")
    resumed = kdengine("train", "--resume", "one")
    assert resumed.code == 0, resumed.err
    rows = [json.loads(line) for line in (here / "one" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]


def test_a_dry_run_says_how_a_network_is_trained_and_why(kdengine, small, here):
    model = "timm:vit_tiny_patch16_224@img_size=32@patch_size=8@depth=1@embed_dim=32@num_heads=2"
    flags = ["--model", model, "--data", "digits@train=64@test=32", "--dry-run"]
    said = kdengine("train", *flags)
    expected = (
        "AdamW, lr 0.001, weight decay 0.05, 3 epochs of warm-up, gradients clipped at 1: a network with attention from scratch"
    )
    assert f"{model} is trained with {expected}" in said.out
    plan = kdengine("train", *flags, "--json", "-o", "train.lr=0.5").json["training"]["student"]
    assert (plan["optimizer"], plan["lr"], plan["why"]["lr"]) == ("adamw", 0.5, "as set")
    assert list(here.iterdir()) == []
