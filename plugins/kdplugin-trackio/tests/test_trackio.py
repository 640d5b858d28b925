import importlib
import json
import sys

import pytest

from kdengine import Comparison, Engine, PluginError, Registry, epoch_numbers, hookimpl

pytestmark = pytest.mark.filterwarnings("ignore")  # of the client, which is not ours

DATA = "digits@train=16@test=16"
FAST = {"precision": "fp32", "device": "cpu", "batch_size": 8, "lr": 0.02, "log_every": 1}


@pytest.fixture(scope="session", autouse=True)
def _local(tmp_path_factory):
    """A folder of these tests; Trackio reads the variable when it is imported."""
    assert "trackio" not in sys.modules
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACKIO_DIR", str(tmp_path_factory.mktemp("trackio")))
        for name in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_PROJECT", "TRACKIO_WEBHOOK_URL"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture
def engine(tmp_path):
    def make(observers=(), **settings):
        out = tmp_path / "run"
        return Engine(None, "resnet8", ["trackio"], DATA, observers=observers, out=out, **{"epochs": 2, **FAST} | settings)

    return make


@pytest.fixture
def project(monkeypatch, request):
    """A project of this test alone."""
    name = request.node.name.replace("_", "-")[:40]
    monkeypatch.setenv("TRACKIO_PROJECT", name)
    return name


def storage():
    return importlib.import_module("trackio.sqlite_storage").SQLiteStorage


def logged(project):
    """For each run its configuration and its rows."""
    found = {}
    for name in storage().get_runs(project):
        rows = storage().get_logs(project, name)
        found[name] = storage().get_run_config(project, name), rows
    return found


class Stop:
    @hookimpl(trylast=True)
    def kdengine_after_epoch(self, record):
        if record["epoch"] == 1:
            raise KeyboardInterrupt


def test_a_run_holds_settings_numbers_and_tables(engine, project, capsys):
    result = engine().fit()
    ((name, (config, rows)),) = logged(project).items()
    assert name.startswith("run-")
    assert (config["train.lr"], config["student"], config["_Group"]) == (0.02, "resnet8", None)
    epochs = [row for row in rows if "epoch" in row]
    assert [row["step"] for row in epochs] == [2, 4]
    for row, expected in zip(epochs, result.history, strict=True):
        assert epoch_numbers(expected).items() <= row.items()
    assert [row["step"] for row in rows if "steps/task" in row] == [1, 2, 3, 4]
    (table,) = [row["per-class"] for row in rows if "per-class" in row]
    assert sum(line["images"] for line in table["_value"]) == 16
    assert (rows[-1]["state"], rows[-1]["result/top1"]) == ("finished", result.top1)
    assert capsys.readouterr().out == ""


def test_an_interrupted_run_is_marked_and_continued_under_its_name(engine, project, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        engine([Stop()]).fit()
    ((name, (_, rows)),) = logged(project).items()
    assert rows[-1]["state"] == "interrupted"
    assert [alert["title"] for alert in storage().get_alerts(project)] == [f"{name} interrupted"]
    assert json.loads((tmp_path / "run" / "trackio.json").read_text())["id"] == name
    Engine.resume(tmp_path / "run").fit()
    ((again, (_, rows)),) = logged(project).items()
    assert again == name
    assert [row["epoch"] for row in rows if "epoch" in row] == [1, 2]
    assert rows[-1]["state"] == "finished"


def test_lanes_are_logged_side_by_side_and_grouped(project, tmp_path):
    lanes = {"plain": [], "other": []}
    Comparison(None, "resnet8", lanes, DATA, observers=["trackio"], out=tmp_path / "study", epochs=1, **FAST).fit()
    found = {name[:-5]: log for name, log in logged(project).items()}
    assert set(found) == {"plain trial-1", "other trial-1", "leaderboard"}
    assert {config["_Group"] for config, _ in found.values()} == {"study"}
    assert [sum("epoch" in row for row in found[f"{lane} trial-1"][1]) for lane in lanes] == [1, 1]
    (table,) = [row["leaderboard"] for row in found["leaderboard"][1] if "leaderboard" in row]
    assert [line["method"] for line in table["_value"]]


def test_a_server_that_cannot_be_reached_does_not_end_the_run(engine, project, monkeypatch, caplog):
    monkeypatch.setenv("TRACKIO_SERVER_URL", "not a url")
    with caplog.at_level("WARNING", "kdengine"):
        assert engine(epochs=1).fit().top1 is not None
    (said,) = [record.getMessage() for record in caplog.records if "is logged to trackio" in record.getMessage()]
    assert "The run goes on without." in said


def test_without_trackio_the_plugin_is_broken_and_says_what_to_install(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("kdplugin_trackio")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(PluginError, match=r"'trackio' of kdplugin-trackio .* is broken: .*pip install trackio"):
        Registry().methods("trackio")
