"""What the options of training do in whole runs, which they also survive when they are resumed."""

import json

import pytest
import torch
from safetensors.torch import load_file

from kdengine import Engine, SettingsError

FAST = {"data": "digits@train=45@test=16", "precision": "fp32", "device": "cpu", "batch_size": 8, "lr": 0.02, "epochs": 2}


def fit(out, student="resnet8", teacher=None, plugins=(), observers=(), **settings):
    return Engine(teacher, student, plugins, out=out, observers=observers, **{**FAST, **settings}).fit()


def rows(folder):
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if "second" not in name} for row in found]


EVERYTHING = {
    "augment": "resized-crop+rand-augment",
    "color_jitter": 0.2,
    "erase": 0.25,
    "mixup": 0.2,
    "cutmix": 1.0,
    "workers": 0,
    "ema": 0.9,
    "accumulate": 3,
    "decay_norms_and_biases": False,
    "head_lr": 2.0,
    "freeze": "conv1",
    "balanced_sampling": True,
    "class_weights": "balanced",
    "patience": 5,
    "log_every": 2,
}


@pytest.mark.sample(1)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_with_everything_on_a_resumed_run_ends_as_if_nothing_had_happened(precision, tmp_path, pull):
    settings = {**EVERYTHING, "precision": precision, "save_minutes": 1e-9}
    whole = fit(tmp_path / "whole", **settings)
    with pytest.raises(RuntimeError, match="pulled the plug"):
        fit(tmp_path / "part", observers=[pull(8)], **settings)  # in the second epoch, between two steps of one update
    again = Engine.resume(tmp_path / "part").fit()
    assert rows(again.folder) == rows(whole.folder)
    steps = [(run.folder / "steps.jsonl").read_text() for run in (again, whole)]
    assert steps[0] == steps[1]
    assert [json.loads(line)["step"] for line in steps[0].splitlines()] == [2, 4, 6] * 2
    for name in ("student", "student-best", "student-ema"):
        one, other = (load_file(run.folder / f"{name}.safetensors") for run in (again, whole))
        assert all(torch.equal(value, other[key]) for key, value in one.items())


def test_the_moving_average_is_measured_and_saved_beside_the_student(tmp_path):
    result = fit(tmp_path / "run", ema=0.99)
    last = rows(result.folder)[-1]
    facts = result.facts["student"]
    assert facts["ema_top1"] == last["ema_test_top1"]
    assert {name.removeprefix("ema_") for name in last if name.startswith("ema_")} == {"test_top1", "test_top5", "test_loss"}
    student, average = (load_file(result.folder / f"{name}.safetensors") for name in ("student", "student-ema"))
    assert student.keys() == average.keys()
    assert not torch.equal(student["fc.weight"], average["fc.weight"])
    plain = fit(tmp_path / "plain")
    assert [{name: value for name, value in row.items() if "ema" not in name} for row in rows(result.folder)] == rows(
        plain.folder
    )


def test_accumulated_batches_are_one_update_with_their_mean_gradient(tmp_path):
    """Of a network without batch statistics, batches of 16 in pairs are batches of 32, but for a last batch of other size."""
    settings = {"student": "vit_tiny", "data": "digits@train=48@test=16", "augment": "none", "momentum": 0.0, "nesterov": False}

    def small():
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 20), torch.nn.Tanh(), torch.nn.Linear(20, 10))

    pairs, whole = (
        fit(tmp_path / name, **{**settings, "student": small(), "schedule": "constant", **own})
        for name, own in (("pairs", {"batch_size": 8, "accumulate": 2}), ("whole", {"batch_size": 16}))
    )
    for one, other in zip(pairs.student.parameters(), whole.student.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_a_run_stops_early_when_it_gets_no_better(tmp_path):
    result = fit(tmp_path / "run", lr=1e-12, epochs=9, patience=2, keep_every=2)
    assert len(rows(result.folder)) == 3
    assert result.facts["student"]["epochs"] == 3
    assert [file.name for file in sorted(result.folder.glob("student-epoch*"))] == ["student-epoch-2.safetensors"]


def test_gradients_are_the_same_when_activations_are_computed_again(tmp_path):
    student = "timm:vit_tiny_patch16_224@img_size=32@patch_size=8@depth=2@embed_dim=24@num_heads=2"
    runs = [
        fit(tmp_path / str(again), student, "resnet8", ["fitnet"], checkpointing=again, epochs=1, teacher_train={"epochs": 1})
        for again in (False, True)
    ]
    one, other = (load_file(run.folder / "student.safetensors") for run in runs)
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"student": torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10)), "checkpointing": True},
            "Sequential does",
        ),
        ({"freeze": "layer9"}, "no module 'layer9'"),
        ({"layer_decay": 0.5, "student": torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10))}, "group_matcher"),
        (
            {"mixup": 0.2, "teacher": "resnet8", "plugins": ["mbd-soft"]},
            "mbd-soft needs one label for each image, but train.mixup",
        ),
    ],
)
def test_what_a_network_or_a_method_cannot_do_is_refused_before_anything_is_written(settings, message, tmp_path):
    with pytest.raises(SettingsError, match=message):
        fit(tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()
