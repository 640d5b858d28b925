"""Runs without labels: from the first step to the probe of the finished folder."""

import json

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from kdengine import Comparison, Distiller, Engine, KDError, SettingsError
from kdengine.runs.evaluate_run import evaluate_folder
from kdengine.runs.probe_run import probe_folder

DATA = "digits@train=192@test=96"


class Follow(Distiller):
    """The student's embedding, by a linear layer, in the direction of the teacher's."""

    name = "follow"
    taps = ("embedding",)
    takes = "vectors"

    def build(self, pair):
        (tap,) = pair.pairs
        self.layer = torch.nn.Linear(tap.student.shape[1], tap.teacher.shape[1])

    def forward(self, step):
        (tap,) = step.pairs
        return {"cosine": 1 - F.cosine_similarity(self.layer(tap.student), tap.teacher).mean()}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """Weights of a classifier of ten classes; its last layer is nonsense that must not be read."""
    torch.manual_seed(0)
    state = timm.create_model("resnet14", num_classes=10).state_dict()
    state["fc.weight"].fill_(torch.nan)
    file = tmp_path_factory.mktemp("weights") / "teacher.safetensors"
    save_file(state, file)
    return str(file)


@pytest.fixture(scope="module")
def settings(teacher):
    return {"data": DATA, "task": "unlabelled", "teacher_weights": teacher, "epochs": 3, "precision": "fp32", "lr": 0.05}


@pytest.fixture(scope="module")
def folder(settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "follow"
    Engine("resnet14", "resnet8", [Follow()], out=folder, **settings).fit()
    return folder


@pytest.mark.slow
def test_a_student_comes_closer_to_its_teacher_than_the_untrained_one(settings, folder, tmp_path):
    board = Comparison("resnet14", "resnet8", {"follow": [Follow()]}, out=tmp_path / "both", **settings).fit()
    scores = {label: similarity(tmp_path / "both" / "trial-1" / label) for label in ("plain", "follow")}
    assert scores["plain"] < scores["follow"] - 2
    assert scores["follow"] == similarity(folder)
    assert "follow" in str(board)


def similarity(folder):
    return json.loads((folder / "result.json").read_text())["student"]["similarity"]


def test_a_probe_compares_student_untrained_network_and_teacher(folder):
    facts = probe_folder(folder, DATA, trust=True)
    rows = {row["role"]: row for row in facts["networks"]}
    assert list(rows) == ["student", "untrained", "teacher"]
    assert all(10 < row[kind] <= 100 for row in rows.values() for kind in ("knn", "linear"))
    assert len({row["knn"] for row in rows.values()}) > 1
    assert (folder / "probe.json").exists()


def test_the_backbone_starts_a_classifier(folder):
    engine = Engine(None, "resnet8", data=DATA, student_weights=folder / "student.safetensors", epochs=1)
    student = engine.plan().student.module
    stored = load_file(folder / "student.safetensors")
    assert all(torch.equal(student.state_dict()[name], value) for name, value in stored.items())
    assert student.fc.out_features == 10


@pytest.mark.parametrize(("changes", "words"), [({"teacher_weights": None}, "no targets to train it by")])
def test_a_teacher_without_weights_is_refused(settings, changes, words, tmp_path):
    with pytest.raises(KDError, match=words):
        Engine("resnet14", "resnet8", [Follow()], out=tmp_path / "run", **{**settings, **changes}).fit()


def test_training_without_a_method_is_refused(settings):
    with pytest.raises(SettingsError, match="no targets to train by"):
        Engine(None, "resnet8", data=DATA, task="unlabelled").plan()


def test_a_method_of_classes_is_refused(settings):
    with pytest.raises(SettingsError, match="classes"):
        Engine("resnet14", "resnet8", ["st"], **settings).plan()


def test_a_finished_run_is_probed_not_evaluated(folder):
    with pytest.raises(SettingsError, match="--probe"):
        evaluate_folder(folder)
