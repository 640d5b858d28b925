import json
import re
import signal

import pytest

SMALL = ["--data", "digits@train=16@test=16", "--epochs", "1", "-o", "train.batch_size=8", "-o", "train.precision=fp32"]
PAIR = ["--teacher", "resnet14", "--student", "resnet8"]


def test_methods_are_compared_and_printed_with_the_plain_student_and_the_teacher(kdengine, here):
    said = kdengine("compare", "--methods", "st,fitnet+st", *PAIR, *SMALL, "--out", "out")
    assert said.code == 0, said.err
    lines = [line.split() for line in said.out.splitlines()]
    assert {"plain", "st", "fitnet+st", "teacher"} <= {line[0] for line in lines if line}
    assert "one trial: no interval" in said.out
    assert re.search(r"^(In one trial, \S+ has the best|No (method )?gain)", said.out, re.M), "the answer follows the table"
    assert "trial-1 fitnet+st: epoch 2/2" in said.err
    assert "resnet14: training" in said.err
    assert (here / "out" / "trial-1" / "plain" / "student.safetensors").is_file()
    assert (here / "out" / "curves.png").read_bytes().startswith(b"\x89PNG")
    page = (here / "out" / "report.html").read_text(encoding="utf-8")
    assert all(piece in page for piece in ("fitnet+st", "gain over plain", "<svg"))


def test_with_json_there_is_one_object(kdengine):
    found = kdengine("compare", "--methods", "st", "--trials", "2", *PAIR, *SMALL, "--out", "out", "--json").json
    assert {row["method"]: row["trials"] for row in found["methods"]} == {"plain": 2, "st": 2}
    assert found["teacher"]["name"] == "resnet14"
    json.dumps(found)


def test_numbers_that_mean_nothing_are_told_once_on_the_screen_in_the_table_and_on_the_page(kdengine, here):
    stuck = ["-o", "train.lr=1e-9", *SMALL]
    said = kdengine("compare", "--methods", "st", "--teacher", "cnn2", "--student", "cnn2", *stuck, "--out", "out")
    assert said.code == 0, said.err
    words = " ".join(said.err.split())
    for warning in ("The teacher is near chance, top-1", "The plain student is no baseline, near chance with top-1"):
        assert words.count(warning) == 1
    assert "no baseline: gains mean nothing" in said.out
    assert "(!)" in said.out
    assert "These numbers mean little." in (page := (here / "out" / "report.html").read_text(encoding="utf-8"))
    assert "The plain student is no baseline" in page
    alone = json.loads((here / "out" / "trial-1" / "st" / "result.json").read_text())
    assert [warning.partition(",")[0] for warning in alone["warnings"]] == [
        "The teacher is near chance",
        "The student is near chance",
    ]


@pytest.mark.slow
def test_learning_rates_are_probed_first_and_the_choice_is_shown(kdengine):
    pair = ["--methods", "st", "--teacher", "cnn2", "--student", "cnn2", *SMALL, "-o", "teacher_train.lr=0.02"]
    pair += ["--data", "digits@train=256@test=64", "-o", "train.batch_size=8"]  # enough to learn something
    said = kdengine("compare", *pair, "--out", "out", "--tune-lr", "1e-9,0.02")
    assert said.code == 0, said.err
    assert "Probing train.lr = 1e-09, 0.02 for the plain student: 1 epoch each" in " ".join(said.err.split())
    lines = [line.split() for line in said.out.splitlines()]
    assert ["plain", "0.02"] in [line[:2] for line in lines if "chosen" in " ".join(line)]
    assert ["plain", "1e-09"] in [line[:2] for line in lines if len(line) == 3]
    refused = kdengine("compare", "--resume", "out", "--tune-lr")
    assert "--resume takes --tune-lr from the folder" in refused.err
    assert "from 2 to 20" in kdengine("compare", *pair, "--tune-lr", "1").err


def test_what_is_missing_or_unknown_is_told(kdengine):
    for arguments, said in (
        (PAIR, "--methods"),
        (["--methods", "rdk", *PAIR], "rkd"),
        (["--methods", "st", "--student", "resnet8"], "--teacher"),
        (["--resume", "nowhere"], "no comparison"),
        (["--resume", "nowhere", "--methods", "st"], "--resume takes --methods from the folder"),
    ):
        found = kdengine("compare", *arguments)
        assert found.code == 2
        assert said in found.err


FUSSY = """
from kdengine import Distiller, hookimpl

class Fussy(Distiller):
    \"\"\"Compare equal widths.\"\"\"
    name = "{name}"
    category = "relational"
    groups = ("likes", "modern")
    taps = ("embedding",)

    def build(self, pair):
        if {refuse}:
            raise ValueError("the widths differ")

    def forward(self, step):
        return {{"gap": step.student["embedding"].square().mean()}}

@hookimpl
def kdengine_register(registry):
    registry.distiller(Fussy)
"""


def test_a_group_is_kept_as_its_lanes_and_a_method_that_cannot_run_on_the_pair_says_why(kdengine, distribution, here):
    distribution("kdplugin-fussy", FUSSY.format(name="fussy", refuse=True))
    distribution("kdplugin-easy", FUSSY.format(name="easy", refuse=False))
    command = ["compare", "--methods", "likes,kdplugin-easy", *PAIR, *SMALL, "--out", "out"]
    assert kdengine(*command, "--dry-run").out.count("the widths differ") == 1
    assert not (here / "out").exists()
    said = kdengine(*command, "--json")
    assert said.code == 0, said.err
    rows = {row["method"]: row for row in said.json["methods"]}
    assert sorted(rows) == ["easy", "fussy", "plain"]
    assert "the widths differ" in str(rows["fussy"])
    distribution("kdplugin-newer", FUSSY.format(name="newer", refuse=False))
    found = kdengine("compare", "--resume", "out", "--dry-run", "--json")
    assert found.code == 0, found.err
    assert [lane["method"] for lane in found.json["methods"]] == ["plain", "easy", "fussy"]


def test_a_dry_run_lists_the_lanes_and_trains_nothing(kdengine, here):
    said = kdengine("compare", "--methods", "relations,fitnet+st,rkd", *PAIR, *SMALL, "--dry-run", "--json")
    assert said.code == 0, said.err
    lanes = {lane["method"]: lane for lane in said.json["methods"]}
    assert next(iter(lanes)) == "plain"
    assert list(lanes)[-1] == "fitnet+st"
    assert {"rkd", "sp"} <= set(lanes)
    assert lanes["rkd"] == {"method": "rkd", "plugins": ["rkd"], "phases": ["joint"], "epochs": 1, "connector_parameters": 0}
    assert lanes["fitnet+st"]["phases"] == ["hint", "joint"]
    assert lanes["fitnet+st"]["epochs"] == 2
    assert lanes["fitnet+st"]["connector_parameters"] > 0
    assert not list(here.iterdir())
    shown = kdengine("compare", "--methods", "relations", *PAIR, *SMALL, "--dry-run").out
    assert "Nothing was trained" in shown


FAMILY = ["--methods", "st", "--teacher", "cnn2", "--student", "resnet8", "--student", "cnn2"]


@pytest.mark.slow
def test_several_students_are_compared_by_a_process_and_reported_from_their_folder(process, kdengine, here):
    """With one table, CSV, JSON and a picture; resumed, it trains and measures nothing anew."""
    said = process("compare", *FAMILY, *SMALL, "--out", here / "out", "--json")
    assert said.code == 0, said.err
    assert "trial-1 resnet8 st: epoch 1/1" in said.err
    rows = said.json["methods"]
    assert {(row["student"], row["method"]) for row in rows} == {(s, m) for s in ("cnn2", "resnet8") for m in ("plain", "st")}
    assert all(row["latency_ms"] > 0 for row in rows)
    assert said.json["teacher"]["latency_ms"] > 0
    assert (here / "out" / "tradeoff.png").read_bytes().startswith(b"\x89PNG")
    assert "over latency" in (here / "out" / "report.html").read_text(encoding="utf-8")
    lines = kdengine("report", "out", "--format", "csv", "--tradeoff", "picture.svg").out.splitlines()
    assert lines[0].startswith("student,parameters,MFLOPs,")
    assert [line.split(",")[0] for line in lines[1:]] == ["teacher cnn2", "cnn2", "cnn2", "resnet8", "resnet8"]
    assert "<svg" in (here / "picture.svg").read_text(encoding="utf-8")
    measured = {file: file.read_text() for file in (here / "out").rglob("benchmark.json")}
    assert kdengine("compare", "--resume", "out", "--json").json["methods"] == rows
    assert measured == {file: file.read_text() for file in (here / "out").rglob("benchmark.json")}


def test_a_dry_run_of_several_students_lists_each_and_what_is_wrong_is_told(kdengine, here):
    said = kdengine("compare", *FAMILY, *SMALL, "--dry-run")
    assert said.code == 0, said.err
    assert [line.split()[:2] for line in said.out.splitlines()[1:5]] == [
        ["resnet8", "plain"],
        ["resnet8", "st"],
        ["cnn2", "plain"],
        ["cnn2", "st"],
    ]
    assert "runs/compare-resnet8-and-1-more-" in said.out
    for arguments, fault in (
        ([*FAMILY, "--student", "cnn2"], "'cnn2' is named twice"),
        ([*FAMILY, "--student-weights", "none", "--student-weights", "none", "--student-weights", "none"], "names 3 files"),
        (["--resume", "out", "--student", "a", "--student", "b"], "--resume takes --student from the folder"),
    ):
        found = kdengine("compare", *arguments)
        assert found.code == 2
        assert fault in " ".join(found.err.split())
    assert not (here / "out").exists()


@pytest.fixture(scope="module")
def compared(process, small, tmp_path_factory):
    """The command of a comparison, with the cache that it uses, and the folder and the table that it comes to undisturbed."""
    base = tmp_path_factory.mktemp("compared")
    cache = {"KDENGINE_CACHE": str(base / "cache")}
    long = ["--data", "digits@train=128@test=64"]  # enough to be killed in the middle of it
    command = ["compare", "--methods", "st,fitnet", "--trials", "2", *PAIR, "-o", "teacher_train.epochs=1", *small, *long]
    said = process(*command, "--out", base / "whole", "--json", env=cache)
    assert said.code == 0, said.err
    return command, cache, base / "whole", said.json


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["trial-1 st: epoch 1/2", "trial-2 plain: epoch 1/2"])
def test_a_killed_comparison_is_readable_and_goes_on_to_the_same_end(moment, compared, process, kdengine, here):
    """Killed while a lane of the first trial has been saved and others have not, and in the second trial."""
    command, cache, whole, table = compared
    killed = process(*command, "--out", "part", interrupt_at=moment, signal_to_send=signal.SIGKILL, env=cache)
    assert killed.code == -signal.SIGKILL
    read = kdengine("report", "part")
    assert read.code == 0, read.err
    assert "not finished" in read.out
    resumed = process("compare", "--resume", "part", "--json", env=cache)
    assert resumed.code == 0, resumed.err
    assert [numbers(row) for row in resumed.json["methods"]] == [numbers(row) for row in table["methods"]]
    runs = sorted(file.parent.relative_to(whole) for file in whole.rglob("result.json"))
    assert len(runs) == 6
    for run in runs:
        part, other = here / "part" / run, whole / run
        assert (part / "student.safetensors").read_bytes() == (other / "student.safetensors").read_bytes()
        assert [numbers(row) for row in metrics(part)] == [numbers(row) for row in metrics(other)]


def numbers(row):
    """What does not depend on the clock."""
    return {key: value for key, value in row.items() if "second" not in key}


def metrics(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_without_methods_there_is_nothing_to_compare(kdengine, monkeypatch):
    assert "There are no methods. Name some" in kdengine("compare", *PAIR, "--methods", "").err
    assert "There are no methods. Name some" in kdengine("compare", *PAIR, "--methods", ",").err
    monkeypatch.setenv("KDENGINE_LOAD_PLUGINS", "kdzoo")
    assert "pip install 'kdengine[all]' installs them all" in kdengine("compare", *PAIR, "--methods", "all").err


def test_a_damaged_comparison_file_is_told(kdengine, here):
    (here / "comparison.json").write_text('{"lanes": [{"labl": "st"}], "trials": 1}')
    said = kdengine("compare", "--resume", here)
    assert said.code == 2
    assert "is not a valid comparison file" in said.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--observer", "rkd"], "'rkd' is a method, not an observer"),
        (["--observer", "tensorbord"], "Did you mean 'tensorboard'"),
        (["--resume", "nowhere", "--observer", "tensorboard"], "--resume takes"),
    ],
)
def test_observers_of_all_lanes_are_checked_first(arguments, message, kdengine):
    fresh = [] if "--resume" in arguments else ["--methods", "st", "--teacher", "resnet14", "--student", "resnet8"]
    said = kdengine("compare", *fresh, *arguments)
    assert said.code == 2
    assert message in said.err
