"""Several students in one comparison: each lane is that of a comparison of its student alone, with one teacher for all."""

import json

import pytest
import torch
from safetensors.torch import load_file

from kdengine import Comparison, Distiller, Engine, KDError, SettingsError
from kdengine.comparison import LaneSpec
from kdengine.networks.models import ModelSource
from kdengine.plugins.registry import Registry
from kdengine.report.leaderboard import Leaderboard
from kdengine.storage.runfolder import RunFolder
from kdengine.training.teacher import FrozenTeacher

FAST = {"precision": "fp32", "device": "cpu", "batch_size": 8, "lr": 0.02, "epochs": 1}
DATA = "digits@train=16@test=16"
TIMES = ("seconds", "images_per_second")
STUDENTS = ["cnn2", "resnet8"]


def network(name, seed=5):
    return ModelSource(name, {"num_classes": 10}, (3, 32, 32), Registry()).create(seed)


def rows(folder):
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in TIMES} for row in found]


def same_weights(one, other):
    weights = [load_file(folder / "student.safetensors") for folder in (one, other)]
    return weights[0].keys() == weights[1].keys() and all(
        torch.equal(weights[1][key], value) for key, value in weights[0].items()
    )


class Narrow(Distiller):
    """Does not serve a student that is as wide as resnet8."""

    name = "narrow"
    taps = ("embedding",)

    def build(self, pair):
        if pair.student["embedding"].shape[1] == 64:
            raise ValueError("too wide")

    def forward(self, step):
        return {"size": step.student.logits.square().mean()}


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    """Two trials of two students; how often the teacher ran forward while they trained; the board and the folder."""
    folder, images = tmp_path_factory.mktemp("family") / "out", []
    trace = FrozenTeacher.trace

    def counted(self, x, *arguments, **named):
        images.append(len(x))
        return trace(self, x, *arguments, **named)

    methods = {"st": ["st"], "fitnet": ["fitnet"], "narrow": [Narrow()]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FrozenTeacher, "trace", counted)
        patch.setattr("kdengine.shipping.latency.ROUND_SECONDS", 0.002)
        comparison = Comparison(network("resnet14"), STUDENTS, methods, DATA, trials=2, out=folder, **FAST)
        board = comparison.fit()
    return board, folder, images


def test_every_student_has_every_lane_and_its_own_plain_one(family):
    board, folder, _ = family
    for trial in ("trial-1", "trial-2"):
        assert {path.name for path in (folder / trial).iterdir()} == set(STUDENTS)
        for student in STUDENTS:
            assert {path.name for path in (folder / trial / student).iterdir()} == {"plain", "st", "fitnet", "narrow"}
            assert RunFolder(folder / trial / student / "st").settings().student == student
    assert list(board.students) == STUDENTS
    assert [(row["student"], row["method"]) for row in board.rows] == [
        (student, row["method"]) for student in STUDENTS for row in board.students[student].rows
    ]


def test_the_teacher_runs_once_per_batch_for_all_students(family):
    """Two batches in each of two trials, for four lanes that learn from it; in its second epoch, fitnet does not."""
    _, _, images = family
    assert images == [8] * (2 * 2)


@pytest.mark.slow
def test_lanes_are_those_of_a_comparison_of_one_student_and_of_a_lone_run(family, tmp_path):
    _, folder, _ = family
    student, teacher = STUDENTS[1], network("resnet14")
    Comparison(teacher, student, ["st", "fitnet"], DATA, trials=2, out=tmp_path / "one", **FAST).fit()
    for lane in ("plain", "st", "fitnet"):
        mine, alone = folder / "trial-2" / student / lane, tmp_path / "one" / "trial-2" / lane
        assert rows(mine) == rows(alone)
        assert same_weights(mine, alone)
    settings = RunFolder(folder / "trial-2" / student / "st").settings()
    assert settings == RunFolder(tmp_path / "one" / "trial-2" / "st").settings()
    Engine(teacher, student, ["st"], DATA, seed=1, out=tmp_path / "alone", **FAST).fit()
    assert rows(tmp_path / "alone") == rows(folder / "trial-2" / student / "st")
    assert same_weights(tmp_path / "alone", folder / "trial-2" / student / "st")


def test_gains_are_over_the_plain_lane_of_the_same_student_and_trial(family):
    board, folder, _ = family
    for student in STUDENTS:
        scores = {
            lane: [rows(folder / trial / student / lane)[-1]["test_top1"] for trial in ("trial-1", "trial-2")]
            for lane in ("plain", "st")
        }
        (row,) = (row for row in board.rows if (row["student"], row["method"]) == (student, "st"))
        gains = [one - other for one, other in zip(scores["st"], scores["plain"], strict=True)]
        assert row["gain"] == pytest.approx(sum(gains) / 2)
        assert row["gain_low"] <= row["gain"] <= row["gain_high"]


def test_a_method_that_cannot_serve_one_student_is_a_row_of_that_student_alone(family):
    board, _, _ = family
    failures = {row["student"]: row["failure"] for row in board.rows if row["method"] == "narrow"}
    assert failures["cnn2"] == ""
    assert "too wide" in failures["resnet8"]


def test_sizes_and_latency_of_every_student_stand_in_the_table_and_the_plan_says_the_student(family, tmp_path):
    board, folder, _ = family
    for row in board.rows:
        known = row["failure"] == ""
        assert (row["parameters"] is not None) == (row["flops"] is not None) == (row["latency_ms"] is not None) == known
    sizes = {row["student"]: row["parameters"] for row in board.rows if row["method"] == "plain"}
    assert sizes == {name: sum(p.numel() for p in network(name).parameters()) for name in STUDENTS}
    measured = sorted(str(file.parent.relative_to(folder)) for file in folder.rglob("benchmark.json"))
    assert [path.rpartition("/")[0] for path in measured] == ["trial-1/cnn2", "trial-1/resnet8"]
    rows = Comparison(network("resnet14"), STUDENTS, {"narrow": [Narrow()]}, DATA, out=tmp_path / "plan", **FAST).plan()
    assert [(row["student"], row["method"], "problem" in row) for row in rows] == [
        ("cnn2", "plain", False),
        ("cnn2", "narrow", False),
        ("resnet8", "plain", False),
        ("resnet8", "narrow", True),
    ]
    assert not (tmp_path / "plan").exists()


def test_an_interrupted_comparison_of_several_students_one_of_them_a_module_goes_on_to_the_same_end(
    tmp_path, monkeypatch, interrupt
):
    """Stopped between the students' lanes of one pass; the second one is a module, which is passed again."""
    monkeypatch.setattr("kdengine.comparison.measure_students", lambda *_: pytest.fail("latency was not wanted"))

    def compared(name, *observers):
        settings = {"out": tmp_path / name, "observers": observers, "latency": False, "teacher_train": {"epochs": 1}}
        students = {"small": "cnn2", "mine": network("resnet8", 7)}
        return Comparison("cnn2", students, ["st"], DATA, **settings, **{**FAST, "epochs": 2})

    compared("whole").fit()
    with pytest.raises(KeyboardInterrupt):
        compared("part", interrupt(3)).fit()
    assert any("not finished" in row["failure"] for row in Leaderboard.of([tmp_path / "part"]).rows)
    modules = {"student 2": network("resnet8", 7)}
    board = Comparison.resume(tmp_path / "part", modules=modules, latency=False).fit()
    assert {row["failure"] for row in board.rows} == {""}
    assert list(board.students) == ["small", "mine"]
    for student in ("small", "mine"):
        for lane in ("plain", "st"):
            one, other = (tmp_path / name / "trial-1" / student / lane for name in ("whole", "part"))
            assert rows(one) == rows(other)
            assert same_weights(one, other)


def test_what_is_left_open_follows_each_student_and_a_resumed_comparison_keeps_it(tmp_path, interrupt):
    """A network with attention has AdamW and warm-up beside a convolutional one with SGD."""
    settings = {**FAST, "epochs": 1, "teacher_train": {"epochs": 1, "optimizer": "sgd", "lr": 0.02}}
    del settings["lr"]
    vit = "timm:vit_tiny_patch16_224@img_size=32@patch_size=8@embed_dim=24@depth=1@num_heads=2"
    comparison = Comparison(network("resnet14"), {"vit": vit, "cnn": "cnn2"}, ["st"], DATA, out=tmp_path / "out", **settings)
    with pytest.raises(KeyboardInterrupt):
        Comparison(**{**given(comparison), "assignment": watched(comparison.assignment, interrupt(1))}).fit()
    kept = {path.parent.name: RunFolder(path).settings().train for path in (tmp_path / "out" / "trial-1").glob("*/st")}
    assert (kept["vit"].optimizer, kept["cnn"].optimizer) == ("adamw", "sgd")
    resumed = Comparison.resume(tmp_path / "out", modules={"teacher": network("resnet14")}, latency=False)
    assert [student.train["optimizer"] for student in resumed.students] == ["adamw", "sgd"]
    resumed.fit()
    again = {path.parent.name: RunFolder(path).settings().train for path in (tmp_path / "out" / "trial-1").glob("*/st")}
    assert again == kept


def given(comparison):
    """The arguments that make the same comparison again."""
    return {"methods": comparison.lanes, "students": comparison.students, "out": comparison.folder, "latency": False}


def watched(assignment, observer):
    from dataclasses import replace

    return replace(assignment, observers=(observer,))


def test_weights_are_those_of_each_student_and_one_network_may_start_from_several(tmp_path):
    """Those of a run bring the size of its images with them, so that the students receive images of different sizes."""
    Engine(None, "cnn2", [], DATA, out=tmp_path / "first", student_input={"size": 16}, **FAST).fit()
    start = tmp_path / "first" / "student.safetensors"
    settings = {**FAST, "student_weights": ["none", start], "latency": False, "out": tmp_path / "o"}
    comparison = Comparison(network("resnet14"), ["cnn2", "cnn2"], [], DATA, **settings)
    assert [student.label for student in comparison.students] == ["cnn2", "cnn2-2"]
    comparison.fit()
    settings = [RunFolder(tmp_path / "o" / "trial-1" / label / "plain").settings() for label in ("cnn2", "cnn2-2")]
    assert [one.student_weights for one in settings] == [None, str(start)]
    sizes = [
        RunFolder(tmp_path / "o" / "trial-1" / label / "plain").result()["student"]["input"]["size"]
        for label in ("cnn2", "cnn2-2")
    ]
    assert sizes == [[3, 32, 32], [3, 16, 16]]
    manifest = RunFolder(tmp_path / "o" / "trial-1" / "cnn2-2" / "plain").manifest()
    assert manifest["student_weights"]["path"] == str(start)
    assert not same_weights(*(tmp_path / "o" / "trial-1" / label / "plain" for label in ("cnn2", "cnn2-2")))


@pytest.mark.slow
def test_every_student_gets_a_learning_rate_of_its_own(tmp_path):
    settings = {**FAST, "tune_lr": [1e-9, 0.02], "latency": False, "out": tmp_path / "out"}
    comparison = Comparison(network("resnet14"), STUDENTS, ["st"], "digits@train=24@test=16", **settings)
    comparison.fit()
    note = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert set(note["tuned"]) == set(comparison.tuned) == set(STUDENTS)
    for student in STUDENTS:
        chosen = comparison.tuned[student]["lr"]
        lanes = [RunFolder(tmp_path / "out" / "trial-1" / student / lane).settings().train.lr for lane in ("plain", "st")]
        assert lanes == [chosen, chosen]
    resumed = Comparison.resume(tmp_path / "out", modules={"teacher": network("resnet14")}, latency=False)
    assert resumed.tuned == comparison.tuned
    assert [dict(one.train) for one in resumed.students] == [dict(one.train) for one in comparison.students]


@pytest.mark.parametrize(
    ("students", "more", "said"),
    [
        ([], {}, "No student was given"),
        (["cnn2", "timm:cnn2"], {}, "'cnn2' is named twice, with the same weights"),
        (["cnn2", "resnet8"], {"student_weights": ["none", "none", "none"]}, "names 3 files, but there are 2 students"),
        (["cnn2", "resnet8"], {"student_weights": ["none", "nowhere.pth"]}, "no weights file 'nowhere.pth'"),
        (["cnn2", "resnet9"], {}, "resnet9"),
        ({"a/b": "cnn2", "c": "resnet8"}, {}, "'a/b' cannot be the label of a student"),
        (
            ["cnn2", "resnet8"],
            {"methods": [LaneSpec("st", ["st"], student="vit")]},
            "of the student 'vit', which is not compared",
        ),
    ],
)
def test_mistakes_are_told_before_anything_is_written(students, more, said, tmp_path):
    more = {"methods": ["st"], **more}
    with pytest.raises(KDError, match=said):
        Comparison(network("resnet14"), students, data=DATA, out=tmp_path / "out", **more, **FAST).fit()
    assert not (tmp_path / "out").exists()


def test_a_run_of_one_student_refuses_several():
    with pytest.raises(SettingsError, match="a run trains one student"):
        Engine(None, ["cnn2", "resnet8"], [], DATA, **FAST)


def test_a_list_of_one_student_is_that_student(tmp_path):
    Comparison(network("resnet14"), ["cnn2"], ["st"], DATA, out=tmp_path / "out", **FAST).fit()
    assert {path.name for path in (tmp_path / "out" / "trial-1").iterdir()} == {"plain", "st"}
    assert "students" not in json.loads((tmp_path / "out" / "comparison.json").read_text())


def test_what_follows_a_network_never_decides_the_batches_that_all_students_share():
    from kdengine.config.train_settings import OPEN
    from kdengine.runs.lane_specs import SHARED

    assert not set(OPEN) & set(SHARED)
