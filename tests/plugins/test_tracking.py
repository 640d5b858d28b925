"""What every plugin for an experiment tracker has from the engine, seen by a tracker that only keeps it."""

import json
import logging
from types import SimpleNamespace

import kdzoo  # noqa: F401  registers the networks with timm
import pytest
import timm
import torch

from kdengine import (
    Comparison,
    Distiller,
    Engine,
    RunInfo,
    RunLog,
    SettingsError,
    Tracking,
    TrainingError,
    epoch_numbers,
    hookimpl,
)
from kdengine.plugins.deferred import Deferred
from kdengine.storage.runfolder import RunFolder

DATA = "digits@train=16@test=16"
FAST = {"precision": "fp32", "device": "cpu", "batch_size": 8, "lr": 0.02}


class Kept(RunLog):
    """The log of a run, which keeps what it is given."""

    def __init__(self, info):
        self.info, self.epochs, self.steps, self.images, self.tables, self.ends = info, [], [], [], {}, []

    @property
    def id(self):
        return self.info.id or f"id of {self.info.name}"

    def epoch(self, numbers, epoch, step):
        self.epochs.append((epoch, step, numbers))

    def step(self, numbers, step):
        self.steps.append((step, numbers))

    def image(self, name, file):
        self.images.append((name, file.read_bytes()[:4]))

    def table(self, name, columns, rows):
        self.tables[name] = (columns, rows)

    def end(self, state, summary):
        self.ends.append((state, summary))


@pytest.fixture
def logs():
    return []


@pytest.fixture
def tracking(logs):
    def begin(info):
        logs.append(Kept(info))
        return logs[-1]

    return Tracking("kept", begin)


@pytest.fixture
def engine(tmp_path, tracking):
    def make(plugins=(), observers=(), **settings):
        settings = {"epochs": 3, "out": tmp_path / "run", **FAST, **settings}
        return Engine(None, "resnet8", plugins, DATA, observers=[tracking, *observers], **settings)

    return make


class Early:
    """Ends a run after its second epoch, once its state is saved, before others hear of the epoch."""

    def __init__(self, error):
        self.error = error

    @hookimpl(tryfirst=True)
    def kdengine_after_epoch(self, record):
        if record["epoch"] == 2:
            raise self.error


class Late(Early):
    """Likewise, once others have heard of the epoch."""

    @hookimpl(trylast=True)
    def kdengine_after_epoch(self, record):
        if record["epoch"] == 2:
            raise self.error


class Exploding(Distiller):
    """Its loss is no longer finite in the second epoch."""

    name = "exploding"
    taps = ()
    student_taps = ("logits",)
    requires_teacher = False

    def forward(self, step):
        return {"bang": step.student.logits.sum() * (float("nan") if step.epoch else 0.0)}


def test_a_run_is_logged_from_its_settings_to_its_classes(engine, logs):
    result = engine(log_every=1).fit()
    (log,) = logs
    assert (log.info.name, log.info.group, log.info.kind, log.info.id) == ("run", None, "run", None)
    assert log.info.choices["train.lr"] == 0.02
    assert log.info.choices["student"] == "resnet8"
    assert log.epochs == [(row["epoch"], 2 * row["epoch"], epoch_numbers(row)) for row in result.history]
    assert log.epochs[0][2]["top1/test"] == result.history[0]["test_top1"]
    stepped = [json.loads(line) for line in (result.folder / "steps.jsonl").read_text().splitlines()]
    assert log.steps == [
        (2 * (row["epoch"] - 1) + row["step"], {"steps/task": pytest.approx(row["terms"]["task"])}) for row in stepped
    ]
    columns, rows = log.tables["per-class"]
    assert columns[:3] == ("class", "images", "accuracy %")
    assert sum(row[1] for row in rows) == 16
    assert sum(row[1] * row[2] for row in rows if row[1]) / 16 == pytest.approx(result.top1)
    ((state, summary),) = log.ends
    assert (state, summary["top1"], summary["epochs"]) == ("finished", result.top1, 3)


@pytest.mark.parametrize("pull", [Early, Late])
@pytest.mark.parametrize(("error", "state"), [(KeyboardInterrupt(), "interrupted"), (ValueError("no more"), "failed")])
def test_a_resumed_run_goes_on_with_its_log_and_says_nothing_twice(engine, logs, tracking, tmp_path, error, state, pull):
    with pytest.raises(type(error)):
        engine(log_every=1, observers=[pull(error)]).fit()
    (first,) = logs
    assert [end[0] for end in first.ends] == [state]
    assert state == "interrupted" or "no more" in first.ends[0][1]["reason"]
    result = Engine.resume(tmp_path / "run", observers=[tracking]).fit()
    second = logs[1]
    assert second.info.id == first.id
    assert [epoch for epoch, _, _ in first.epochs + second.epochs] == [1, 2, 3]
    assert [step for step, _ in first.steps + second.steps] == [1, 2, 3, 4, 5, 6]
    assert [numbers["loss"] for _, _, numbers in first.epochs + second.epochs] == [row["loss"] for row in result.history]
    assert second.ends[0][0] == "finished"


def test_a_lane_that_fails_says_why(engine, logs):
    with pytest.raises(TrainingError):
        engine([Exploding()]).fit()
    ((state, summary),) = logs[0].ends
    assert state == "failed"
    assert "exploding.bang = nan" in summary["reason"]
    assert len(logs[0].epochs) == 1


@pytest.mark.parametrize("broken", ["open", "epoch", "step", "table", "end"])
def test_a_log_that_fails_is_given_up_with_one_warning_and_the_run_goes_on(broken, engine, logs, tracking, caplog, monkeypatch):
    def fail(*arguments):
        raise ConnectionError("no network")

    if broken == "open":
        monkeypatch.setattr(tracking, "_opener", fail)
    else:
        monkeypatch.setattr(Kept, broken, fail)
    with caplog.at_level(logging.WARNING, "kdengine"):
        result = engine(log_every=1).fit()
    assert result.top1 is not None
    (said,) = [record.getMessage() for record in caplog.records if "kept" in record.getMessage()]
    assert "ConnectionError: no network. The run goes on without." in said


def test_it_changes_nothing_of_what_is_computed(engine, tmp_path):
    with_it = engine().fit().history
    without = Engine(None, "resnet8", (), DATA, epochs=3, out=tmp_path / "other", **FAST).fit().history
    measured = ("loss", "terms", "test_loss", "test_top1")
    assert [[row[name] for name in measured] for row in with_it] == [[row[name] for name in measured] for row in without]


def test_only_the_first_process_logs(tracking, logs, tmp_path):
    other = SimpleNamespace(runtime=SimpleNamespace(is_main=False), folder=RunFolder(tmp_path))
    tracking.kdengine_before_fit(other)
    tracking.kdengine_after_step(other, 50, {})
    tracking.kdengine_after_epoch(other, {"epoch": 1})
    tracking.kdengine_after_fit(other, None)
    tracking.kdengine_on_error(other, ValueError())
    assert logs == list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("comparison", "lane", "name", "group"),
    [
        ("study", "trial-2/st", "st trial-2", "study"),
        ("study", "trial-2/resnet8/st", "resnet8 st trial-2", "study"),
        ("study/tuning", "trial-1/st", "st trial-1", "study tuning"),
        ("study/tuning/resnet8", "trial-1/st", "st trial-1", "study tuning resnet8"),
    ],
)
def test_a_lane_is_told_by_its_student_and_trial_and_grouped_with_its_comparison(comparison, lane, name, group, tmp_path):
    folder = tmp_path / comparison / lane
    folder.mkdir(parents=True)
    (tmp_path / comparison / "comparison.json").touch()
    run = SimpleNamespace(folder=RunFolder(folder), lane=SimpleNamespace(name="st"), title="a title")
    info = RunInfo.of(run, {}, None)
    assert (info.name, info.group) == (name, group)


def test_lanes_are_grouped_and_their_table_ends_the_comparison(tracking, logs, tmp_path):
    class Mirror(Distiller):
        name = "mirror"
        taps = ("logits",)

        def forward(self, step):
            return {"gap": (step.student.logits - step.teacher.logits).square().mean()}

    torch.manual_seed(0)
    teacher = timm.create_model("resnet8", num_classes=10)
    lanes = {"mirrored": [Mirror()]}
    settings = {"trials": 2, "epochs": 1, "out": tmp_path / "study", **FAST}
    board = Comparison(teacher, "resnet8", lanes, DATA, observers=[tracking], **settings).fit()
    *lanes, table = logs
    assert {log.info.group for log in logs[:-1]} == {"study"}
    assert sorted(log.info.name for log in lanes) == [f"{name} trial-{n}" for name in ("mirrored", "plain") for n in (1, 2)]
    assert [log.ends[0][0] for log in logs] == ["finished"] * 5
    assert (table.info.kind, table.info.name, table.info.group) == ("comparison", "leaderboard", "study")
    assert table.tables["leaderboard"] == (board.columns, board.table().rows)


def test_observers_by_name_hear_of_every_lane_also_of_a_resumed_comparison(tmp_path):
    file = tmp_path / "listener.py"
    file.write_text(
        "from kdengine import hookimpl\nheard = []\n\n\n"
        "@hookimpl\ndef kdengine_after_fit(run):\n    heard.append(run.lane.name)\n\n\n"
        "@hookimpl\ndef kdengine_after_comparison(comparison):\n    heard.append(comparison.rows[0][0])\n"
    )
    comparison = Comparison(None, "resnet8", {"plain": []}, DATA, observers=[str(file)], epochs=1, out=tmp_path / "out", **FAST)
    comparison.fit()
    assert json.loads((tmp_path / "out" / "comparison.json").read_text())["observers"] == [str(file)]
    (plugin,) = comparison.assignment.registry.files.values()
    assert plugin.module.heard == ["plain", "plain"]
    with pytest.raises(SettingsError, match="names code"):
        Comparison.resume(tmp_path / "out")
    again = Comparison.resume(tmp_path / "out", trust=True)
    again.fit()
    (plugin,) = again.assignment.registry.files.values()
    assert plugin.module.heard == ["plain"]


def test_a_run_takes_observers_by_name_among_its_plugins():
    with pytest.raises(SettingsError, match=r"plugins=\['tensorboard'\]"):
        Engine(None, "resnet8", observers=["tensorboard"]).plan()


def test_terms_are_read_when_they_are_asked_for():
    terms = {"a": torch.tensor(1.5), "b": torch.tensor(2.0, dtype=torch.bfloat16)}
    taken = Deferred.of(7, terms)
    assert (taken.step, taken.read()) == (7, {"a": 1.5, "b": 2.0})
    assert Deferred.of(1, {}).read() == {}
