"""Learning without labels: the student's embedding is all that counts, and the teacher is its only measure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from kdengine.config.settings import TrainSettings
from kdengine.errors import ModelError
from kdengine.storage.scores import Measure, Scoring
from kdengine.tasks.task import DataInfo, Task

__all__ = ["CKA", "Unlabelled"]


class Unlabelled(Task):
    """No targets and no task loss: networks are backbones that give an embedding [B, D], and methods alone teach.

    What is measured is how alike student and teacher find the test images. The embeddings may have other widths.
    """

    name = "unlabelled"
    outputs = "embedding"
    measured_by_teacher = True
    scoring: ClassVar[Scoring] = Scoring("unlabelled", (Measure("similarity", "similarity", "%"),))

    @classmethod
    def of(cls, data: DataInfo, train: TrainSettings) -> Self:
        """It takes nothing from data or settings: labels, if there are any, are not looked at."""
        return cls()

    @property
    def num_outputs(self) -> int:
        """None: networks are made without a classifier."""
        return 0

    def network_options(self) -> dict[str, Any]:
        """``{"num_classes": 0}``, which makes a network of timm or the zoo return its embedding."""
        return {"num_classes": 0}

    def check(self, output: Tensor, target: Tensor | None = None, owner: str = "The network") -> None:
        """Require embeddings [B, D] of any width.

        Raises:
            ModelError: the output is something else.
        """
        if output.ndim != 2 or not output.shape[1]:
            raise ModelError(
                f"'{owner}' returns {list(output.shape)}, but without labels a network must return an embedding [B, D]. Choose "
                "a backbone, such as timm:NAME."
            )

    def join(self, outputs: Sequence[Tensor]) -> Tensor:
        """The embeddings of several teachers side by side, each scaled to length 1, [B, D1 + D2 + ...]."""
        return torch.cat([F.normalize(output, dim=1) for output in outputs], dim=1)

    def loss(self, output: Tensor, target: Tensor | None) -> Tensor | None:
        """None: there is nothing to learn but from the teacher."""
        return None

    def metrics(self) -> MetricCollection:
        """Linear CKA of the student's and the teacher's embeddings of all images, in percent."""
        return MetricCollection({"similarity": CKA()}, compute_groups=False)

    def training_metrics(self) -> MetricCollection:
        """None: what the teacher says of training images is the methods' business."""
        return MetricCollection({}, compute_groups=False)


class CKA(Metric):
    """Linear centred kernel alignment of two representations of the same images, in percent.

    |Y'X|^2 / (|X'X| |Y'Y|) with Frobenius norms and columns of mean 0: 100 for representations that differ by a rotation and
    a scale, whatever their widths. Sums in float64, so batches and processes may be of any size.

    Source: Kornblith, Norouzi, Lee, Hinton, "Similarity of Neural Network Representations Revisited", ICML 2019.
    """

    full_state_update = False
    count: Tensor
    x: Tensor
    y: Tensor
    xx: Tensor
    yy: Tensor
    yx: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        for name in ("x", "y", "xx", "yy", "yx"):  # their sizes are known at the first batch
            self.add_state(name, torch.zeros(0, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, output: Tensor, target: Tensor | None) -> None:
        """Add a batch: embeddings [B, D] of the student and [B, E] of the teacher; nothing without a teacher."""
        if target is None or target.ndim != 2:
            return
        x, y = output.double(), target.double()
        self.count += len(x)
        for name, sums in (("x", x.sum(0)), ("y", y.sum(0)), ("xx", x.T @ x), ("yy", y.T @ y), ("yx", y.T @ x)):
            before: Tensor = getattr(self, name)
            setattr(self, name, before + sums if before.numel() else sums)

    def compute(self) -> Tensor:
        """The alignment in percent, []; not a number if nothing was compared, or if one side says the same of all images."""
        if not self.xx.numel():
            return torch.tensor(torch.nan)
        both, left, right = (
            (products - torch.outer(ours, theirs) / self.count).square().sum()
            for products, ours, theirs in ((self.yx, self.y, self.x), (self.xx, self.x, self.x), (self.yy, self.y, self.y))
        )
        return 100 * both / (left * right).sqrt()
