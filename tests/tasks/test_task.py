import json

import pytest
import torch

from kdengine import Engine, PluginError, Registry, SettingsError, Task
from kdengine.config.settings import TrainSettings
from kdengine.report.leaderboard import Leaderboard
from kdengine.tasks import Classification

FAST = {"data": "digits@train=16@test=16", "epochs": 3, "precision": "fp32", "device": "cpu", "batch_size": 8, "lr": 0.01}

PLUGIN = '''
from torchmetrics import MeanAbsoluteError, MetricCollection
from kdengine import ModelError, Task, hookimpl
from kdengine.storage.scores import Measure, Scoring


class Counting(Task):
    """Guesses the number itself: one output, squared error."""

    name = "counting"
    scoring = Scoring("counting", (Measure("mae", "mean error", higher_is_better=False),))
    num_outputs = 1

    @classmethod
    def of(cls, data, train):
        return cls()

    def check(self, output, target=None, owner="The network"):
        if tuple(output.shape[1:]) != (1,):
            raise ModelError(f"'{owner}' returns {list(output.shape)}, but [B, 1] is needed.")

    def loss(self, output, target):
        return (output[:, 0] - target).square().mean()

    def metrics(self):
        return MetricCollection({"mae": First()})


class First(MeanAbsoluteError):
    def update(self, output, target):
        super().update(output[:, 0].contiguous(), target.float())


@hookimpl
def kdengine_register(registry):
    registry.task(Counting)
'''


@pytest.fixture
def plugin(tmp_path):
    file = tmp_path / "counting.py"
    file.write_text(PLUGIN, encoding="utf-8")
    return str(file)


def test_a_task_of_a_plugin_decides_outputs_loss_metrics_and_the_best_epoch(plugin, tmp_path):
    out = tmp_path / "run"
    result = Engine(None, "resnet8", [plugin], task="counting", out=out, **FAST).fit()
    errors = [row["test_mae"] for row in result.history]
    assert result.student.fc.out_features == 1
    assert (result.score, result.best_score, result.top1) == (errors[-1], min(errors), None)
    assert all("train_mae" in row and "test_top1" not in row for row in result.history)
    stored = json.loads((out / "result.json").read_text())
    assert stored["task"]["headline"] == "mae"
    assert stored["student"]["best_epoch"] == 1 + errors.index(min(errors))
    assert [row["mae"] for row in Leaderboard.of([out]).rows] == [errors[-1]]
    assert "last mean error" in Leaderboard.of([out]).table().columns


def test_a_network_with_outputs_of_another_task_is_refused(plugin, tmp_path):
    from kdengine.networks.models import ModelSource

    ten = ModelSource("resnet8", {"num_classes": 10}, (3, 32, 32), Registry()).create(0)
    with pytest.raises(Exception, match=r"returns \[2, 10\], but \[B, 1\] is needed"):
        Engine(None, ten, [plugin], task="counting", out=tmp_path / "run", **FAST).fit()


def test_a_task_that_nobody_offers_is_refused_with_the_nearest():
    with pytest.raises(PluginError, match=r"no task 'clasification'. Did you mean 'classification'\?"):
        Registry().task("clasification")
    with pytest.raises(PluginError, match="Available: classification"):
        Registry().task("poetry")


def test_a_task_need_not_know_classes(plugin):
    registry = Registry()
    registry.methods(plugin)
    task = registry.task("counting").of(None, None)
    assert task.confusion() is None
    assert task.predictions(torch.tensor([[1.5], [2.0]])) == [[{"output": [1.5]}], [{"output": [2.0]}]]


def test_a_task_that_says_nothing_of_it_refuses_to_mix_and_to_balance():
    task = Classification(10)  # only for its name: the defaults are those of the contract
    assert Task.mixing(task, TrainSettings()) is None
    with pytest.raises(SettingsError, match="The task 'classification' does not mix images"):
        Task.mixing(task, TrainSettings(mixup=0.2))
    with pytest.raises(SettingsError, match="The task 'classification' has no classes to balance"):
        Task.sampling_weights(task, torch.zeros(3))
