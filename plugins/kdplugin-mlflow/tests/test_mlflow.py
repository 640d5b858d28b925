import json
import sys
from pathlib import Path

import pytest

from kdengine import Comparison, Engine, PluginError, Registry, epoch_numbers, hookimpl

pytestmark = pytest.mark.filterwarnings("ignore")  # of the client, which is not ours

DATA = "digits@train=16@test=16"
FAST = {"precision": "fp32", "device": "cpu", "batch_size": 8, "lr": 0.02, "log_every": 1}


@pytest.fixture(autouse=True)
def local(tmp_path, monkeypatch):
    """A store in a folder, for which no data base is needed."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    for name in ("MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def engine(tmp_path):
    def make(observers=(), **settings):
        out = tmp_path / "run"
        return Engine(None, "resnet8", ["mlflow"], DATA, observers=observers, out=out, **{"epochs": 2, **FAST} | settings)

    return make


@pytest.fixture
def client():
    from mlflow import MlflowClient

    return MlflowClient()


def runs_in(client, experiment="kdengine"):
    found = client.search_runs([client.get_experiment_by_name(experiment).experiment_id], order_by=["attributes.start_time"])
    return {run.info.run_name: run for run in found}


def history(client, run, key):
    return [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, key)]


class Stop:
    @hookimpl(trylast=True)
    def kdengine_after_epoch(self, record):
        if record["epoch"] == 1:
            raise KeyboardInterrupt


def test_a_run_holds_settings_numbers_and_tables(engine, client, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    result = engine().fit()
    (run,) = runs_in(client, "mine").values()
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    assert (run.data.params["train.lr"], run.data.params["student"]) == ("0.02", "resnet8")
    for name in epoch_numbers(result.history[0]):
        key = "loss/train" if name == "loss" else name
        assert history(client, run, key) == [(row["epoch"], epoch_numbers(row)[name]) for row in result.history]
    assert [step for step, _ in history(client, run, "steps/task")] == [1, 2, 3, 4]
    assert run.data.metrics["result/top1"] == result.top1
    assert run.data.tags["state"] == "finished"
    table = client.download_artifacts(run.info.run_id, "tables/per-class.csv", str(tmp_path))
    lines = Path(table).read_text(encoding="utf-8").splitlines()
    assert lines[0] == "class,images,accuracy %,mostly taken for"
    assert sum(int(line.split(",")[1]) for line in lines[1:]) == 16


def test_an_interrupted_run_is_marked_and_continued_under_its_id(engine, client, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        engine([Stop()]).fit()
    (run,) = runs_in(client).values()
    assert (run.info.status, run.data.tags["state"]) == ("KILLED", "interrupted")
    assert json.loads((tmp_path / "run" / "mlflow.json").read_text())["id"] == run.info.run_id
    Engine.resume(tmp_path / "run").fit()
    (again,) = runs_in(client).values()
    assert (again.info.run_id, again.info.status) == (run.info.run_id, "FINISHED")
    assert [step for step, _ in history(client, again, "loss/train")] == [1, 2]


@pytest.mark.slow
def test_pictures_of_a_run_are_artifacts(client, tmp_path):
    from kdengine.runs.samples import Samples

    scenes = "digit-scenes@target=masks@train=32@test=8"
    run = {"observers": [Samples()], "out": tmp_path / "run", "epochs": 1, **FAST}
    Engine(None, "seg:resnet8", ["mlflow"], scenes, **run).fit()
    (found,) = runs_in(client).values()
    picture = client.download_artifacts(found.info.run_id, "images/samples.png", str(tmp_path))
    assert Path(picture).read_bytes() == (tmp_path / "run" / "samples.png").read_bytes()


def test_lanes_are_grouped_and_followed_by_their_table(client, tmp_path):
    lanes = {"plain": [], "other": []}
    Comparison(None, "resnet8", lanes, DATA, observers=["mlflow"], out=tmp_path / "study", epochs=1, **FAST).fit()
    found = runs_in(client)
    assert set(found) == {"plain trial-1", "other trial-1", "leaderboard"}
    assert {run.data.tags["group"] for run in found.values()} == {"study"}
    table = client.download_artifacts(found["leaderboard"].info.run_id, "tables/leaderboard.csv", str(tmp_path))
    assert Path(table).read_text(encoding="utf-8").startswith("method,trials,last top-1 %")


def test_a_store_that_cannot_be_reached_does_not_end_the_run(engine, monkeypatch, tmp_path, caplog):
    (tmp_path / "store").write_text("no folder")
    with caplog.at_level("WARNING", "kdengine"):
        assert engine(epochs=1).fit().top1 is not None
    (said,) = [record.getMessage() for record in caplog.records if "mlflow" in record.getMessage()]
    assert "The run goes on without." in said


def test_without_mlflow_the_plugin_is_broken_and_says_what_to_install(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("kdplugin_mlflow")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(PluginError, match=r"'mlflow' of kdplugin-mlflow .* is broken: .*pip install mlflow"):
        Registry().methods("mlflow")
