"""The contract of a task: what a student is for, its loss against the targets, and its metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Protocol, Self

from torch import Tensor
from torchmetrics import MetricCollection

from kdengine.config.settings import TrainSettings
from kdengine.storage.scores import Scoring

__all__ = ["DataInfo", "Task"]


class DataInfo(Protocol):
    """What a task may know of the data."""

    @property
    def num_classes(self) -> int:
        """Number of classes K."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes in the order of their indices; empty where nobody knows them."""

    @property
    def input_size(self) -> tuple[int, int, int]:
        """Shape of one image, (C, H, W)."""


class Task(ABC):
    """What a student is for. Nothing outside a task knows what a target is.

    A plugin offers a task with ``registry.task(MyTask)``; the data set names the one it needs.
    """

    name: ClassVar[str]
    """What data sets, settings and folders call the task."""
    scoring: ClassVar[Scoring]
    """What is measured: the names of :meth:`metrics`, the headline first."""

    @classmethod
    @abstractmethod
    def of(cls, data: DataInfo, train: TrainSettings) -> Self:
        """The task on some data, under the settings of a run."""

    @property
    @abstractmethod
    def num_outputs(self) -> int:
        """Channels K of the networks' output."""

    def network_options(self) -> dict[str, Any]:
        """What the factories of networks receive: ``{"num_classes": K}``."""
        return {"num_classes": self.num_outputs}

    @abstractmethod
    def check(self, output: Tensor, target: Tensor | None = None, owner: str = "The network") -> None:
        """Refuse an output, or targets, of another form.

        Args:
            output: what a network returns for a batch; on the meta device when a network is probed.
            target: what the data gives for it, where there is one.
            owner: whose output it is, for errors.

        Raises:
            ModelError: the output has another shape than the task needs.
            DataError: the targets are no targets of this task.
        """

    @abstractmethod
    def loss(self, output: Tensor, target: Tensor | None) -> Tensor | None:
        """The task loss [] of a batch; None where there is nothing to learn from the targets.

        Args:
            output: float32, as a network returns it.
            target: hard or soft, as the data gives it, or None.
        """

    @abstractmethod
    def metrics(self) -> MetricCollection:
        """Fresh metrics by the names of :attr:`scoring`; ``update(output, target)`` takes what :meth:`loss` takes."""

    def training_metrics(self) -> MetricCollection:
        """Fresh metrics of the training batches: the headline, unless a task says otherwise."""
        headline = self.scoring.headline.name
        return MetricCollection({headline: self.metrics()[headline]}, compute_groups=False)
