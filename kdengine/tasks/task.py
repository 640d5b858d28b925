"""The contract of a task: what a student is trained for, with its loss and metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from kdengine.config.settings import TrainSettings
from kdengine.errors import SettingsError
from kdengine.storage.chance import Chance
from kdengine.storage.scores import Scoring

__all__ = ["DataInfo", "Task"]


class DataInfo(Protocol):
    """The properties of the data that a task may use."""

    @property
    def num_classes(self) -> int:
        """Number of classes K."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes in the order of their indices; empty if unknown."""

    @property
    def input_size(self) -> tuple[int, int, int]:
        """Shape of one image, (C, H, W)."""

    @property
    def targets(self) -> Tensor | None:
        """The targets of all training images; None if they are not known before they are read."""


class Task(ABC):
    """What a student is trained for. Only the task interprets the targets.

    A plugin registers a task with ``registry.task(MyTask)``; a data set names the task that it is for.
    """

    name: ClassVar[str]
    """Name of the task in data sets, settings and folders."""
    scoring: ClassVar[Scoring]
    """The measures, named like the items of :meth:`metrics`; the headline comes first."""
    outputs: ClassVar[str] = "classes"
    """What outputs are, for methods that read them: ``classes`` [B, K], of which a softmax makes shares; ``labels`` [B, K],
    each of which a sigmoid makes a probability; ``pixels`` [B, K, H, W], classes at each position; ``embedding`` [B, D]; or a
    name of the task's own."""
    measured_by_teacher: ClassVar[bool] = False
    """Whether metrics take the teacher's output for the same images in place of the data's targets."""

    @classmethod
    def check_targets(cls, targets: Tensor, num_classes: int, owner: str) -> None:
        """Refuse targets of a split, [N] or [N, ...], that do not suit the task; by default none.

        Args:
            targets: of all images of the split.
            num_classes: number of classes K of the data.
            owner: name of the data, for errors.

        Raises:
            DataError: they do not.
        """
        return

    @classmethod
    @abstractmethod
    def of(cls, data: DataInfo, train: TrainSettings) -> Self:
        """Create the task for a data set and the settings of a run."""

    @property
    @abstractmethod
    def num_outputs(self) -> int:
        """Number of outputs K of the networks."""

    def network_options(self) -> dict[str, Any]:
        """Keyword arguments for network factories: ``{"num_classes": K}``."""
        return {"num_classes": self.num_outputs}

    @abstractmethod
    def check(self, output: Tensor, target: Tensor | None = None, owner: str = "The network") -> None:
        """Refuse outputs or targets of the wrong form.

        Args:
            output: output of a network for a batch; on the meta device when a network is probed.
            target: targets of the batch, if any.
            owner: name of the network, for errors.

        Raises:
            ModelError: the output has the wrong shape for the task.
            DataError: the targets do not suit the task.
        """

    @abstractmethod
    def loss(self, output: Tensor, target: Tensor | None) -> Tensor | None:
        """The task loss [] of a batch; None if there are no targets to learn from.

        Args:
            output: output of the network, in float32.
            target: targets from the data, or None.
        """

    def join(self, outputs: Sequence[Tensor]) -> Tensor:
        """What several networks say together, in the form of one output, [B, ...]; by default the mean of their outputs.

        Args:
            outputs: those of each network for the same images, in float32.
        """
        return torch.stack(list(outputs)).mean(0)

    def mixing(self, train: TrainSettings) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None:
        """How to mix a batch as the settings ask: (images [B, C, H, W], targets) -> the same, mixed; None if they do not.

        It draws from torch's global random state, which is seeded for each batch.

        Raises:
            SettingsError: they do, but the task cannot mix targets.
        """
        if train.mixup or train.cutmix:
            raise SettingsError(f"The task '{self.name}' does not mix images: leave out train.mixup and train.cutmix.")
        return None

    def sampling_weights(self, targets: Tensor) -> Tensor:
        """How often to draw each training image, relative to the others, so that none of its kind is rare: [N].

        Args:
            targets: of all N training images.

        Raises:
            SettingsError: the task knows no kinds.
        """
        raise SettingsError(f"The task '{self.name}' has no classes to balance: leave out train.balanced_sampling.")

    @abstractmethod
    def metrics(self) -> MetricCollection:
        """Fresh metrics, named as in :attr:`scoring`; ``update(output, target)`` takes the arguments of :meth:`loss`."""

    def training_metrics(self) -> MetricCollection:
        """Fresh metrics for the training batches; by default only the headline."""
        headline = self.scoring.headline.name
        return MetricCollection({headline: self.metrics()[headline]}, compute_groups=False)

    def confusion(self) -> Metric | None:
        """A fresh metric with the counts of true against predicted classes, [K, K]; None for a task without classes.

        ``update(output, target)`` takes the arguments of :meth:`loss`.
        """
        return None

    def predictions(self, output: Tensor, names: Sequence[str] = (), limit: int = 1) -> list[list[dict[str, Any]]]:
        """What outputs say, for people and programs: plain data with the same keys throughout, the likeliest first.

        Args:
            output: output of the network for B images, in float32.
            names: names of the classes in the order of their indices; empty if unknown.
            limit: number of answers per image, for tasks that rank several.

        Returns:
            for each image, its answers; by default one, with the bare output.
        """
        return [[{"output": values.tolist()}] for values in output.cpu()]

    def drawn(self, values: Tensor) -> Tensor | None:
        """Outputs or targets of B images as pictures, uint8 [B, 3, h, w]; None, the default, for a task that has none.

        Args:
            values: outputs of a network, in float32, or targets.
        """
        return None

    @classmethod
    def draws(cls) -> bool:
        """Whether :meth:`drawn` makes pictures."""
        return cls.drawn is not Task.drawn

    def chance(self, targets: Tensor | None = None) -> Chance | None:
        """What a network reaches that ignores its input, to warn of results that mean nothing; None, the default, if unknown.

        Args:
            targets: targets of all test images, [N] or [N, ...]; None if they are not known.
        """
        return None
