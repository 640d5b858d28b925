"""What holds for classification holds for every task: a resumed run, and a lane among others, are those of a run alone."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from kdengine import Comparison, Engine, Registry
from kdengine.networks.models import ModelSource

SHARED = {"epochs": 2, "batch_size": 8, "precision": "fp32", "save_minutes": 1e-9, "lr": 0.02, "drop_last": False}
CASES = {
    "segmentation": ("seg:resnet14", "seg:resnet8", ["st", "cwd"], "digit-scenes@target=masks@size=32", 11),
    "multilabel": ("resnet14", "resnet8", ["l2d"], "digit-scenes@size=32", 10),
    "unlabelled": ("resnet14", "resnet8", ["foundation"], "digits", 0),
}
"""Teacher, student, methods, data and outputs."""


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    """A folder, and what a run of the task takes; its teacher has weights."""
    teacher, student, methods, data, outputs = CASES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    weights = folder / "teacher.safetensors"
    save_file(ModelSource(teacher, {"num_classes": outputs}, (3, 32, 32), Registry()).create(5).state_dict(), weights)
    settings = {**SHARED, "data": f"{data}@train=20@test=16", "task": request.param, "teacher_weights": str(weights)}
    if request.param != "unlabelled":
        settings["augment"] = "resized-crop"
    return folder, (teacher, student), methods, settings


@pytest.fixture(scope="module")
def whole(case):
    """The folder of an undisturbed run."""
    folder, networks, methods, settings = case
    return Engine(*networks, methods, out=folder / "whole", **settings).fit().folder


def rows(folder):
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if "second" not in name and name != "lane"} for row in found]


def assert_same(folder, other):
    assert rows(folder) == rows(other)
    one, two = (load_file(each / "student.safetensors") for each in (folder, other))
    assert all(torch.equal(value, two[name]) for name, value in one.items())


@pytest.mark.slow
def test_a_run_that_was_cut_off_within_an_epoch_ends_like_an_undisturbed_one(case, whole, pull):
    folder, networks, methods, settings = case
    with pytest.raises(RuntimeError, match="pulled the plug"):
        Engine(*networks, methods, out=folder / "part", observers=[pull(5)], **settings).fit()  # 3 steps are an epoch
    assert_same(Engine.resume(folder / "part").fit().folder, whole)


@pytest.mark.sample(1)
def test_a_lane_beside_others_is_the_run_alone(case, whole):
    folder, networks, methods, settings = case
    label = "+".join(methods)
    Comparison(*networks, [label, "at"], out=folder / "both", **settings).fit()
    assert_same(folder / "both" / "trial-1" / label, whole)
