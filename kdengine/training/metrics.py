"""Running metrics of a lane within an epoch."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchmetrics import MetricCollection

from kdengine.data.batches import Batch
from kdengine.seeds import undisturbed
from kdengine.tasks.task import Task
from kdengine.training.runtime import Runtime

__all__ = ["Meter", "computed", "on_device", "update"]

HELD = 2**20
"""Outputs that wait to be scored, in bytes: one after the other, small ones take a fraction of the time."""


def on_device(metrics: MetricCollection, device: torch.device, share: bool = False) -> MetricCollection:
    """Move metrics to a device, or to the CPU if the device lacks float64.

    Args:
        metrics: fresh metrics of a task.
        device: device of the batches.
        share: whether :meth:`compute` aggregates over all processes.
    """
    if not share:
        for metric in metrics.values():
            metric.distributed_available_fn = _nowhere
    moved: MetricCollection = metrics.to("cpu" if device.type == "mps" else device)
    return moved


def _nowhere() -> bool:
    """No processes to sum over: each has seen every image, or trains alone while the others wait for it."""
    return False


def update(metrics: MetricCollection, output: Tensor, target: Tensor | None) -> None:
    """Add a batch to metrics, on their device.

    Args:
        metrics: of a task.
        output: what the network returned.
        target: what the data gives for it, or None.
    """
    for metric in metrics.values():
        metric.update(output.to(metric.device), None if target is None else target.to(metric.device))


def computed(metrics: MetricCollection) -> dict[str, float]:
    """Metric name -> value; 0 for tensors on the meta device."""
    with undisturbed(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchmetrics warns because it does not count a restored state as an update
        values = metrics.compute()
    return {name: 0.0 if value.is_meta else float(value) for name, value in values.items()}


class Meter:
    """Accumulates over the batches of an epoch, on the device to avoid synchronization.

    Args:
        runtime: device and precision.
        task: defines the training metrics.
        length: steps of the epoch.

    Attributes:
        steps: batches so far.
        busy: seconds that the lane spent on them.
        step_terms: the weighted terms of the last step, detached, each [].
    """

    def __init__(self, runtime: Runtime, task: Task, length: int) -> None:
        self.steps = 0
        self.busy = 0.0
        self.step_terms: dict[str, Tensor] = {}
        self._runtime = runtime
        self._length = length
        self._seen = 0
        self._terms: dict[str, Tensor] = {}
        self._metrics = on_device(task.training_metrics(), runtime.device, share=runtime.processes > 1)
        self._waiting: list[tuple[Tensor, Tensor | None]] = []
        self._held = 0

    def note(self, batch: Batch, terms: Mapping[str, Tensor], output: Tensor | None) -> None:
        """Add a step: its weighted terms, each [], and the student's output, if the phase has the task.

        Outputs may wait to be scored, but not those of the first and of the last step, so that a metric that cannot take them
        fails in a step.
        """
        count = len(batch.x) if batch.is_counted else 0
        self.steps += 1
        self._seen += count
        self.step_terms = {name: value.detach() for name, value in terms.items()}
        for name, value in self.step_terms.items():
            self._terms[name] = self._terms.get(name, 0.0) + value * count
        if output is not None and count:
            self._wait(output.detach(), batch.y)

    def _wait(self, output: Tensor, target: Tensor | None) -> None:
        """Have an output scored later, or now; what waits is copied, as CUDA graphs and loaders fill their tensors anew."""
        if self.steps in (1, self._length) or self._held + output.nbytes > HELD:
            self.score()
            update(self._metrics, output, target)
        else:
            self._held += output.nbytes
            self._waiting.append((output.clone(), None if target is None else target.clone()))

    def score(self) -> None:
        """Score the outputs that wait for it, each by itself: what the metrics add up does not depend on when."""
        waiting, self._waiting, self._held = self._waiting, [], 0
        for output, target in waiting:
            update(self._metrics, output, target)

    def row(self, scored: bool) -> dict[str, Any]:
        """Means over the images of the epoch, for ``metrics.jsonl``.

        Args:
            scored: whether the phase has the task, and so outputs to score.
        """
        self.score()
        total = self._runtime.total
        seen = total(self._seen)
        terms = {name: total(value) / seen for name, value in self._terms.items()}
        row: dict[str, Any] = {
            "loss": sum(terms.values()),
            "terms": terms,
            "seconds": round(self.busy, 3),
            "images_per_second": round(seen / max(self.busy, 1e-9), 1),
        }
        scores = computed(self._metrics) if scored else {}
        return {**row, **{f"train_{name}": value for name, value in scores.items()}}

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to resume midway through an epoch."""
        self.score()
        states = {name: dict(metric.metric_state) for name, metric in self._metrics.items()}
        return {"steps": self.steps, "busy": self.busy, "seen": self._seen, "terms": self._terms, "metrics": states}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a saved state into a fresh meter."""
        self.steps, self.busy, self._seen = state["steps"], state["busy"], state["seen"]
        self._terms = {name: value.to(self._runtime.device) for name, value in state["terms"].items()}
        for name, metric in self._metrics.items():
            saved = state["metrics"][name]
            metric.merge_state({key: value.to(metric.device) for key, value in saved.items()})
