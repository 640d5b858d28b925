"""Multi-label knowledge distillation: each label's probability, and the structure of label-wise embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from kdengine import Distiller, ModelError, Pair, Registrar, Step, hookimpl
from kdplugin_l2d.structure import LabelWise, class_loss, instance_loss

__all__ = ["L2D", "LabelWise", "class_loss", "instance_loss", "label_loss", "label_rows"]

# B: images of a batch, D: length of an embedding, K: labels.

POSITIVE = 0.5
"""Target from which an image counts as having a label: targets are shares where images are mixed."""
TOLERANCE = 0.05
"""Largest difference between a classifier and its rows, relative to its largest logit; forwards may be in bf16."""


def label_loss(student_BK: Tensor, teacher_BK: Tensor) -> Tensor:
    """Mean over images and labels of the KL divergence between a label's two probabilities, sigmoid(z); [].

    Args:
        student_BK: logits of the student, [B, K].
        teacher_BK: logits of the teacher, [B, K].
    """
    yes, no = (F.logsigmoid(sign * teacher_BK) - F.logsigmoid(sign * student_BK) for sign in (1, -1))
    return (torch.sigmoid(teacher_BK) * yes + torch.sigmoid(-teacher_BK) * no).mean()


def label_rows(head: Callable[[Tensor], Tensor], width: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Weights [K, D] and bias [K] of a linear classifier, told by what it makes of unit vectors and of zero.

    Args:
        head: the classifier, [N, D] -> [N, K].
        width: D.
        like: a tensor of the device and dtype.
    """
    probes = torch.cat([torch.eye(width, dtype=like.dtype, device=like.device), like.new_zeros(1, width)])
    logits = head(probes)
    return (logits[:-1] - logits[-1]).T, logits[-1]


class L2D(Distiller):
    """Multi-label distillation: each label's probability, and distances between the embeddings of images and labels.

    Source: Yang, Xie, Zong, Feng, Niu, Sugiyama, Huang, "Multi-Label Knowledge Distillation", ICCV 2023, arXiv:2308.06453.
    """

    name = "l2d"
    category = "relational"
    groups = ("relations", "modern")
    taps = ("logits", "embedding")
    needs = ("labels",)
    serves = ("labels",)

    class Options(Distiller.Options):
        """Options of multi-label distillation."""

        logits: float = Field(10 / 64, ge=0)
        """Weight of the divergence of the labels' probabilities; 0 leaves the term out."""
        classes: float = Field(100 / 64, ge=0)
        """Weight of the class-aware structure: the images that have one label; 0 leaves the term out."""
        instances: float = Field(1000 / 80, ge=0)
        """Weight of the instance-aware structure: the labels that one image has; 0 leaves the term out."""

        def model_post_init(self, context: Any) -> None:
            """Refuse other taps, and a method without terms."""
            if self.taps is not None:
                raise ValueError("taps: l2d compares logits and the embeddings that classifiers receive; leave them out")
            if not (self.logits or self.classes or self.instances):
                raise ValueError("logits, classes and instances are all 0, so nothing is left; to disable it, set weight=0")

    options: Options

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._is_checked = False

    @property
    def reads_embedding(self) -> bool:
        """Whether a term reads label-wise embeddings."""
        return self.options.classes > 0 or self.options.instances > 0

    def taps_in(self, phase: str) -> Sequence[str] | None:
        """Logits and embedding, as far as a term reads them."""
        read = {"logits": self.options.logits > 0, "embedding": self.reads_embedding}
        return [tap for tap in self.taps if read[tap]]

    def build(self, pair: Pair) -> None:
        """Take the teacher's classifier.

        Raises:
            ModelError: it has none, or its logits are more than what that makes of the embedding.
        """
        if self.reads_embedding:
            self.head = pair.teacher_head()

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The terms ``logits``, ``classes`` and ``instances``, as far as they have a weight."""
        options, terms = self.options, {}
        if options.logits:
            terms["logits"] = options.logits * label_loss(step.student.logits, step.teacher.logits)
        if not self.reads_embedding:
            return terms
        sides = (
            self._label_wise("student", step.student_head, step.student["embedding"]),
            self._label_wise("teacher", self.head, step.teacher["embedding"]),
        )
        self._is_checked = True
        positive_BK = step.y >= POSITIVE
        for name, weight, loss in (("classes", options.classes, class_loss), ("instances", options.instances, instance_loss)):
            if weight:
                terms[name] = weight * loss(*sides, positive_BK)
        return terms

    def _label_wise(self, side: str, head: Callable[[Tensor], Tensor], features_BD: Tensor) -> LabelWise:
        """The embeddings of one network, with gradients for its classifier if it learns."""
        rows_KD, bias_K = label_rows(head, features_BD.shape[1], features_BD)
        if not self._is_checked:
            _check_linear(side, head, features_BD, features_BD @ rows_KD.T + bias_K)
        return LabelWise(features_BD, rows_KD)


@torch.no_grad()
def _check_linear(side: str, head: Callable[[Tensor], Tensor], features_BD: Tensor, expected_BK: Tensor) -> None:
    """Refuse a classifier that is more than weights and a bias, such as one with a normalisation.

    Raises:
        ModelError: it is.
    """
    logits_BK = head(features_BD)
    if (logits_BK - expected_BK).abs().max() > TOLERANCE * logits_BK.abs().max():
        raise ModelError(
            f"The {side}'s classifier is not linear, so l2d cannot tell the weights of each label from it. Use a {side} whose "
            "classifier is a linear layer, or l2d.classes=0 and l2d.instances=0."
        )


@hookimpl
def kdengine_register(registry: Registrar) -> None:
    """Offer the method."""
    registry.distiller(L2D)
