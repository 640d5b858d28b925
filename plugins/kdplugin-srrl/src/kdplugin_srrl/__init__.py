"""Softmax regression representation learning: the teacher's classifier judges the student's features."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdengine import Distiller, Head, Pair, Registrar, Step, TapError, TapPair, hookimpl, pool_to_vectors
from kdplugin_srrl.connector import Connector, as_maps

__all__ = ["SRRL", "Connector"]

# B: batch, D: width of the teacher's features.


class SRRL(Distiller):
    """Softmax regression representation learning: match the teacher's features, and what its classifier makes of them.

    Source: Yang, Martinez, Bulat, Tzimiropoulos, "Knowledge Distillation via Softmax Regression Representation Learning",
    ICLR 2021.
    """

    name = "srrl"
    category = "multi-connection"
    groups = ("maps", "modern")
    taps = ("embedding",)
    takes = "features"

    class Options(Distiller.Options):
        """Options of softmax regression representation learning."""

        feature: float = Field(1.0, ge=0)
        """Weight of the term of the features."""
        logit: float = Field(1.0, ge=0)
        """Weight of the term of what the teacher's classifier makes of them."""
        relu: Literal["auto", "always", "never"] = "auto"
        """Whether the connector ends in a ReLU; 'auto': where the teacher's features in the first batch are never negative."""

    options: Options

    def build(self, pair: Pair) -> None:
        """One connector per tap, and the teacher's classifier.

        Raises:
            ModelError: the teacher's logits are more than what its classifier makes of the embedding.
            TapError: the teacher's features at a tap are not what its classifier takes.
        """
        self.head = pair.teacher_head()
        for tap in pair.pairs:
            _check(tap, self.head)
        widths = [(as_maps(tap.student).shape[1], as_maps(tap.teacher).shape[1]) for tap in pair.pairs]
        self.connectors = nn.ModuleList(Connector(*width, self.options.relu) for width in widths)

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The terms ``feature`` and ``logit``, each the sum over all taps."""
        features, logits = [], []
        for connector, tap in zip(self.connectors, step.pairs, strict=True):
            student_BD, teacher_BD = connector(tap.student, tap.teacher, step.processes), pool_to_vectors(tap.teacher)
            features.append(F.mse_loss(student_BD, teacher_BD))
            logits.append(F.mse_loss(self.head(student_BD), self.head(teacher_BD)))
        return {
            "feature": self.options.feature * torch.stack(features).sum(),
            "logit": self.options.logit * torch.stack(logits).sum(),
        }


def _check(tap: TapPair, head: Head) -> None:
    """Try the classifier on the shape of the teacher's features."""
    try:
        head.copied().to("meta")(tap.teacher.to("meta"))
    except RuntimeError as error:
        raise TapError(
            f"srrl: at '{tap.teacher_name}' the teacher has {list(tap.teacher.shape)}, which its classifier does not take. "
            "Choose a tap of the width of its embedding, such as srrl.taps='stage-1=embedding'."
        ) from error


@hookimpl
def kdengine_register(registry: Registrar) -> None:
    """Offer the method."""
    registry.distiller(SRRL)
