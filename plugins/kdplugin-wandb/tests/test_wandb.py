import json
import struct
import sys

import pytest

from kdengine import Comparison, Engine, PluginError, Registry, epoch_numbers, hookimpl

pytestmark = pytest.mark.filterwarnings("ignore")  # of the client, which is not ours

DATA = "digits@train=16@test=16"
FAST = {"precision": "fp32", "device": "cpu", "batch_size": 8, "lr": 0.02, "log_every": 1}


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    """Nothing leaves this machine."""
    for name, value in {"MODE": "offline", "DIR": str(tmp_path), "SILENT": "true", "PROJECT": "mine"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    for name in ("NAME", "RUN_GROUP", "RUN_ID", "RESUME", "ENTITY"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    yield
    if sys.modules.get("wandb"):
        sys.modules["wandb"].teardown()  # the client reads its variables once


@pytest.fixture
def engine(tmp_path):
    def make(observers=(), **settings):
        out = tmp_path / "run"
        return Engine(None, "resnet8", ["wandb"], DATA, observers=observers, out=out, **{"epochs": 2, **FAST} | settings)

    return make


class Stop:
    @hookimpl(trylast=True)
    def kdengine_after_epoch(self, record):
        if record["epoch"] == 1:
            raise KeyboardInterrupt


def records(file):
    """The records of a file that waits to be synchronised: a log of LevelDB, of protocol buffers."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, parts = file.read_bytes(), 7, []
    while place + 7 <= len(content):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, size, kind = struct.unpack("<IHB", content[place : place + 7])
        parts.append(content[place + 7 : place + 7 + size])
        place += 7 + size
        if kind in (1, 4):  # a whole record, or the last part of one
            record = Record()
            record.ParseFromString(b"".join(parts))
            parts = []
            yield record


def items(message):
    found = {}
    for item in message:
        *above, last = item.nested_key or [item.key]
        inner = found
        for key in above:
            inner = inner.setdefault(key, {})
        inner[last] = json.loads(item.value_json)
    return found


def logged(folder):
    """What the files of each offline run say, in the order in which they were begun."""
    sys.modules["wandb"].teardown()  # all is in the files only after that
    found = []
    for file in sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns):
        every = list(records(file))
        summary = {}
        for record in every:
            summary |= items(record.summary.update)
        run = next(record.run for record in every if record.HasField("run"))
        found.append(
            {
                "run": run,
                "config": items(run.config.update),
                "rows": [items(record.history.item) for record in every if record.HasField("history")],
                "summary": summary,
                "preempted": any(record.HasField("preempting") for record in every),
                "code": [record.exit.exit_code for record in every if record.HasField("exit")],
                "axes": {r.metric.name: r.metric.step_metric for r in every if r.HasField("metric")},
            }
        )
    return found


def with_key(rows, key):
    return [{name: value for name, value in row.items() if name[0] != "_"} for row in rows if key in row]


def test_an_offline_run_holds_settings_numbers_and_tables(engine, tmp_path):
    result = engine().fit()
    (log,) = logged(tmp_path)
    run = log["run"]
    assert (run.project, run.display_name, run.run_group, run.job_type) == ("mine", "run", "", "run")
    assert (log["config"]["train"]["lr"], log["config"]["student"]) == (0.02, "resnet8")
    expected = [{name.replace(".", "/"): value for name, value in epoch_numbers(row).items()} for row in result.history]
    assert with_key(log["rows"], "epoch") == [{"epoch": number, **row} for number, row in enumerate(expected, 1)]
    assert [row["step"] for row in with_key(log["rows"], "steps/task")] == [1, 2, 3, 4]
    assert (log["axes"]["top1/test"], log["axes"]["steps/task"]) == ("epoch", "step")
    (table,) = with_key(log["rows"], "per-class")
    assert table["per-class"]["_type"] == "table-file"
    assert log["summary"]["result/top1"] == result.top1
    assert (log["summary"]["state"], log["code"], log["preempted"]) == ("finished", [0], False)


@pytest.mark.slow
def test_an_interrupted_run_is_marked_and_continued_under_its_id(engine, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        engine([Stop()]).fit()
    Engine.resume(tmp_path / "run").fit()
    first, second = logged(tmp_path)
    kept = json.loads((tmp_path / "run" / "wandb.json").read_text())["id"]
    assert first["run"].run_id == second["run"].run_id == kept
    assert (first["preempted"], first["code"], first["summary"]["state"]) == (True, [1], "interrupted")
    assert (second["preempted"], second["code"], second["summary"]["state"]) == (False, [0], "finished")
    assert [row["epoch"] for log in (first, second) for row in with_key(log["rows"], "epoch")] == [1, 2]


def test_lanes_are_grouped_and_followed_by_their_table(tmp_path):
    lanes = {"plain": [], "other": []}
    Comparison(None, "resnet8", lanes, DATA, observers=["wandb"], out=tmp_path / "study", epochs=1, **FAST).fit()
    logs = {log["run"].display_name: log for log in logged(tmp_path)}
    assert set(logs) == {"plain trial-1", "other trial-1", "leaderboard"}
    assert {log["run"].run_group for log in logs.values()} == {"study"}
    assert {name: len(with_key(log["rows"], "epoch")) for name, log in logs.items() if name != "leaderboard"} == {
        "plain trial-1": 1,
        "other trial-1": 1,
    }
    assert logs["leaderboard"]["run"].job_type == "comparison"
    assert with_key(logs["leaderboard"]["rows"], "leaderboard")


def test_without_a_login_the_run_goes_on(engine, monkeypatch, tmp_path, caplog):
    for name, value in {"WANDB_MODE": "online", "WANDB_API_KEY": "too short", "NETRC": str(tmp_path / "none")}.items():
        monkeypatch.setenv(name, value)
    with caplog.at_level("WARNING", "kdengine"):
        assert engine(epochs=1).fit().top1 is not None
    (said,) = [record.getMessage() for record in caplog.records if "wandb" in record.getMessage()]
    assert "The run goes on without." in said


def test_without_wandb_the_plugin_is_broken_and_says_what_to_install(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("kdplugin_wandb")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(PluginError, match=r"'wandb' of kdplugin-wandb .* is broken: .*pip install wandb"):
        Registry().methods("wandb")
