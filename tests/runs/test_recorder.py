import json
import re
from types import SimpleNamespace

import pytest

from kdengine import Engine, PluginError, hookimpl
from kdengine.runs.recorder import FolderRecorder
from kdengine.storage.runfolder import RunFolder

FAST = {"data": "digits@train=8@test=16", "epochs": 1, "precision": "fp32", "device": "cpu", "batch_size": 8, "lr": 0.02}


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


class Adding:
    """Adds a number of its own to each row."""

    @hookimpl
    def kdengine_after_epoch(self, record):
        record["mine"] = 7


class Failing:
    @hookimpl
    def kdengine_after_epoch(self):
        raise ValueError("no more")


def test_what_an_observer_adds_to_the_record_of_the_last_epoch_is_written_too(tmp_path):
    Engine(None, "resnet8", out=tmp_path / "run", observers=[Adding()], **FAST).fit()
    assert [row["mine"] for row in rows(tmp_path / "run")] == [7]


def test_the_row_of_an_epoch_is_written_though_an_observer_fails(tmp_path):
    with pytest.raises(ValueError, match="no more"):
        Engine(None, "resnet8", out=tmp_path / "run", observers=[Failing()], **FAST).fit()
    assert [row["epoch"] for row in rows(tmp_path / "run")] == [1]
    assert (tmp_path / "run" / "state" / "lane.pt").is_file()


@pytest.mark.parametrize(("name", "value"), [("mine", {1}), (("a", "b"), 1)])
def test_what_an_observer_adds_and_json_cannot_hold_is_told_and_left_out(name, value, tmp_path):
    class Adds:
        @hookimpl
        def kdengine_after_epoch(self, record):
            record[name] = value

    with pytest.raises(PluginError, match=f"what JSON cannot hold: {re.escape(repr(name))} is a {type(value).__name__}"):
        Engine(None, "cnn2", data="digits@train=16@test=16", epochs=1, out=tmp_path / "run", observers=[Adds()]).fit()
    (row,) = RunFolder(tmp_path / "run").metrics()
    assert name not in row


def test_a_failure_is_kept_with_its_type(tmp_path):
    """``KeyError: 'stage1'`` says something, ``'stage1'`` does not."""
    error = KeyError("stage1")
    run = SimpleNamespace(lane=SimpleNamespace(failure=error, history=[]))
    FolderRecorder(RunFolder(tmp_path)).kdengine_on_error(run, error)
    assert RunFolder(tmp_path).failure() == "KeyError: 'stage1'"
