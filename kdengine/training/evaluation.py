"""Evaluation of a network."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn
from torchmetrics import MetricCollection

from kdengine.data.batches import Batches
from kdengine.errors import TrainingError
from kdengine.networks.modes import evaluating
from kdengine.taps import Recorder
from kdengine.tasks.task import Task
from kdengine.training.metrics import computed, on_device, update
from kdengine.training.runtime import Runtime

__all__ = ["evaluate"]


def evaluate(
    model: nn.Module,
    batches: Batches,
    task: Task,
    runtime: Runtime,
    check: Callable[[], None] = lambda: None,
    further: MetricCollection | None = None,
    together: bool = False,
) -> dict[str, float]:
    """Compute the metrics of a task in fp32, so that any other program can reproduce them.

    Args:
        model: any network; train/eval mode is restored on return.
        batches: the images to evaluate on.
        task: defines the metrics.
        runtime: device and precision.
        check: called before each batch; it may raise to abort.
        further: more metrics to update in the same pass; the caller computes them.
        together: whether processes share out the batches, each as a whole. All must call this, with the same network.

    Returns:
        metric name -> value.

    Raises:
        TrainingError: there are no images.
    """
    rank, processes = (runtime.rank, runtime.processes) if together and len(batches) >= runtime.processes else (0, 1)
    metrics, seen = on_device(task.metrics(), runtime.device, share=processes > 1), 0
    collections = [metrics] if further is None else [metrics, on_device(further, runtime.device)]
    with evaluating(model):
        for number, batch in enumerate(batches.epoch(0)):
            if number % processes == 0:
                check()
            if number % processes != rank:
                continue
            with Recorder(model, {}) as recorder:
                output = recorder(runtime.layout(batch.x)).logits
            seen += len(batch.x)
            for collection in collections:
                update(collection, output, batch.y)
    if seen == 0:
        raise TrainingError("There are no test images to evaluate on. Check the data, or the validation loader.")
    values = computed(metrics)
    return {measure.name: values[measure.name] for measure in task.scoring.measures if measure.name in values}
