"""How well a network recognises each class, counted anew on all test images."""

from __future__ import annotations

from typing import Any

from torch import nn
from torchmetrics import MetricCollection

from kdengine.config.settings import TrainSettings
from kdengine.data.dataset import Data
from kdengine.storage.confusion import ConfusionMatrix
from kdengine.tasks.task import Task
from kdengine.training.evaluation import evaluate
from kdengine.training.runtime import Runtime

__all__ = ["per_class"]


def per_class(
    network: nn.Module, data: Data, task: Task, train: TrainSettings, runtime: Runtime
) -> list[dict[str, Any]] | None:
    """For each class its images, its accuracy and what it is mostly taken for; None for a task without classes.

    Args:
        network: takes images of the data.
        data: has the test images.
        task: counts.
        train: settings of the batches.
        runtime: device.
    """
    metric = task.confusion()
    if metric is None:
        return None
    further = MetricCollection({"confusion": metric}, compute_groups=False)
    evaluate(network, data.test_batches(train, runtime.device), task, runtime, further=further)
    return ConfusionMatrix(data.classes, further.compute()["confusion"].tolist()).per_class()
