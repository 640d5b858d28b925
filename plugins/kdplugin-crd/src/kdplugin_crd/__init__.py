"""Contrastive representation distillation: the student's embedding of an image matches the teacher's, and no other's."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdengine import Distiller, Pair, Registrar, Step, hookimpl, vector_width
from kdplugin_crd.banks import Banks
from kdplugin_crd.embeddings import Embeddings
from kdplugin_crd.negatives import Negatives

__all__ = ["CRD", "Banks", "Embeddings", "Negatives", "in_batch_loss"]


def in_batch_loss(student_BD: Tensor, teacher_BD: Tensor, temperature: float, labels_B: Tensor | None = None) -> Tensor:
    """InfoNCE in both directions, whose negatives are the other images of the batch; mean over the batch; [].

    Args:
        student_BD: unit vectors of the student, [B, D].
        teacher_BD: unit vectors of the teacher, [B, D].
        temperature: divides the cosines.
        labels_B: classes [B]; images of one class are no negatives of one another. Without them all others are.
    """
    scores_BB = student_BD @ teacher_BD.T / temperature
    matches_B = torch.arange(len(scores_BB), device=scores_BB.device)
    if labels_B is not None:
        same_BB = (labels_B[:, None] == labels_B).fill_diagonal_(False)
        scores_BB = scores_BB.masked_fill(same_BB, -torch.inf)
    return F.cross_entropy(scores_BB, matches_B) + F.cross_entropy(scores_BB.T, matches_B)


class CRD(Distiller):
    """Contrastive representation distillation: tell the teacher's embedding of an image from those of other images.

    Source: Tian, Krishnan, Isola, "Contrastive Representation Distillation", ICLR 2020, arXiv:1910.10699; memories and
    weights as in the authors' code.
    """

    name = "crd"
    category = "relational"
    groups: ClassVar = ("relations", "classic")
    taps = ("embedding",)
    takes = "features"
    needs = ("index",)
    presets: ClassVar = {
        "repdistiller": {"beta": 0.8},
        "zoo-cifar10": {"beta": 0.2},
        "in-batch": {"mode": "batch"},
    }

    class Options(Distiller.Options):
        """Options of contrastive representation distillation."""

        beta: float = Field(0.8, ge=0)
        """Weight of the sum over taps."""
        mode: Literal["memory", "batch"] = "memory"
        """Where negatives come from: memories of all training images, or the other images of the batch."""
        length: int = Field(128, ge=1)
        """Length of the embeddings."""
        negatives: int = Field(16384, ge=1)
        """Negatives of each image in mode 'memory'."""
        temperature: float = Field(0.07, gt=0)
        """Temperature of the scores."""
        momentum: float = Field(0.5, ge=0, lt=1)
        """Share of its old value that an entry of a memory keeps when its image is seen again."""

    options: Options

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        if self.options.mode == "batch":
            self.__dict__["needs"] = ()  # nothing is kept for an image

    def build(self, pair: Pair) -> None:
        """Two linear maps per tap and, in mode ``memory``, the memories."""
        options = self.options
        self.embeddings = nn.ModuleList(
            Embeddings(vector_width(tap.student), vector_width(tap.teacher), options.length) for tap in pair.pairs
        )
        if options.mode == "memory":
            count = pair.num_samples
            self.banks = nn.ModuleList(Banks(count, options.length, options.temperature, options.momentum) for _ in pair.pairs)
            self.negatives = Negatives(count, _classes(pair.labels))

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The term ``contrast``, the sum over all taps."""
        vectors = [embed(tap.student, tap.teacher) for embed, tap in zip(self.embeddings, step.pairs, strict=True)]
        losses = self._in_batch(step, vectors) if self.options.mode == "batch" else self._in_memory(step, vectors)
        return {"contrast": self.options.beta * torch.stack(losses).sum()}

    def _in_batch(self, step: Step, vectors: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
        labels = _classes(step.targets)
        return [in_batch_loss(*pair, self.options.temperature, labels) for pair in vectors]

    def _in_memory(self, step: Step, vectors: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
        banks = zip(self.banks, vectors, strict=True)
        return [bank(*pair, step.index, self._draw, step.processes) for bank, pair in banks]

    def _draw(self, index_B: Tensor) -> Tensor:
        places: Tensor = self.negatives(index_B, self.options.negatives)
        return places


def _classes(targets: Tensor | None) -> Tensor | None:
    """Class indices [B], or None where there are none: without labels, or with shares of classes."""
    return targets if targets is not None and targets.ndim == 1 and not targets.is_floating_point() else None


@hookimpl
def kdengine_register(registry: Registrar) -> None:
    """Offer the method."""
    registry.distiller(CRD)
