"""Foundation models distilled into any backbone, from images alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from kdengine import (
    Distiller,
    Pair,
    Processes,
    Registrar,
    SettingsError,
    Step,
    TapError,
    TapPair,
    hookimpl,
    pool_to_vectors,
    projector,
    vector_width,
)
from kdplugin_foundation.prototypes import Prototypes
from kdplugin_foundation.terms import embedding_loss, patch_loss

__all__ = ["Foundation", "Prototypes", "embedding_loss", "patch_loss"]


class Foundation(Distiller):
    """Foundation models into any backbone: predict the teacher's embedding, its patches, and its view of other images.

    Source: embeddings and positions by cosine as in Ranzinger, Heinrich, Kautz, Molchanov, "AM-RADIO: Agglomerative Vision
    Foundation Model", CVPR 2024, arXiv:2312.06709; the queue from Fang et al., "SEED: Self-supervised Distillation For
    Visual Representation", ICLR 2021, arXiv:2101.04731. Their combination and its weights are kdengine's.
    """

    name = "foundation"
    category = "multi-connection"
    groups = ("relations", "modern")
    taps = ("embedding", "stage-1")
    takes = "features"
    serves = ("classes", "labels", "pixels", "embedding")

    class Options(Distiller.Options):
        """Options of the distillation of foundation models."""

        embedding: float = Field(1.0, ge=0)
        """Weight of the distance between the embeddings; 0 leaves the term out."""
        patches: float = Field(1.0, ge=0)
        """Weight of the distance between the maps, position by position; 0 leaves the term out."""
        queue: float = Field(1.0, ge=0)
        """Weight of the comparison with earlier images; 0 leaves the term out."""
        distance: Literal["cosine", "mse"] = "cosine"
        """Distance of the embeddings: 1 - cos, or the squared difference from the teacher's, scaled to a mean square of 1."""
        projector: Literal["linear", "mlp"] = "linear"
        """What predicts the teacher's embedding: a linear map, or two with LayerNorm and GELU between."""
        grid: Literal["teacher", "smaller"] = "teacher"
        """Where maps are compared: at the teacher's positions, or on the smaller of the two grids."""
        length: int = Field(8192, ge=1)
        """Embeddings in the queue, but no more than there are training images."""
        temperature: float = Field(0.07, gt=0)
        """Temperature of both distributions over the queue."""

        def model_post_init(self, context: Any) -> None:
            """Refuse a method without terms."""
            if not (self.embedding or self.patches or self.queue):
                raise ValueError(
                    "embedding, patches and queue are all 0, so nothing is left; to disable the method, set weight=0"
                )

    options: Options

    @property
    def reads_embedding(self) -> bool:
        """Whether a term reads the first tap."""
        return self.options.embedding > 0 or self.options.queue > 0

    def taps_in(self, phase: str) -> Sequence[str] | None:
        """The first tap for embedding and queue, the others for the patches: those whose terms have a weight."""
        taps = tuple(self.options.taps or self.taps)
        return taps[0 if self.reads_embedding else 1 : None if self.options.patches else 1]

    def build(self, pair: Pair) -> None:
        """A projector and the queue for the embedding, and a linear adapter for each tap of maps.

        Raises:
            SettingsError: the patches have a weight, but no tap.
            TapError: a tap of the patches is not a map on both sides.
        """
        options, maps = self.options, list(pair.pairs)
        if self.reads_embedding:
            first = maps.pop(0)
            widths = vector_width(first.student), vector_width(first.teacher)
            self.projector = projector(options.projector, *widths)
            if options.queue:
                self.prototypes = Prototypes(min(options.length, max(1, pair.num_samples)), widths[1], options.temperature)
        if options.patches:
            _check_maps(maps)
            self.adapters = nn.ModuleList(nn.Conv2d(tap.student.shape[1], tap.teacher.shape[1], 1) for tap in maps)

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The terms ``embedding``, ``queue`` and ``patches``, as far as they have a weight; patches summed over the taps."""
        options, taps = self.options, list(step.pairs)
        terms = self._of_embedding(taps.pop(0), step.processes) if self.reads_embedding else {}
        if options.patches:
            losses = [
                patch_loss(adapter, tap.student, tap.teacher, options.grid)
                for adapter, tap in zip(self.adapters, taps, strict=True)
            ]
            terms["patches"] = options.patches * torch.stack(losses).sum()
        return terms

    def _of_embedding(self, tap: TapPair, processes: Processes) -> dict[str, Tensor]:
        options, terms = self.options, {}
        predicted_BD, teacher_BD = self.projector(pool_to_vectors(tap.student)), pool_to_vectors(tap.teacher)
        if options.embedding:
            terms["embedding"] = options.embedding * embedding_loss(predicted_BD, teacher_BD, options.distance)
        if options.queue:
            terms["queue"] = options.queue * self.prototypes(predicted_BD, teacher_BD, processes)
        return terms


def _check_maps(taps: Sequence[TapPair]) -> None:
    if not taps:
        raise SettingsError(
            "foundation.patches compares maps at the second tap and those behind it, and foundation.taps names only one. "
            "Add one, such as foundation.taps=embedding,stage-1, or set foundation.patches=0."
        )
    for tap in taps:
        if not tap.student.ndim == tap.teacher.ndim == 4:
            raise TapError(
                f"foundation: at '{tap.name}' the student has {list(tap.student.shape)} and the teacher "
                f"{list(tap.teacher.shape)}, but patches need maps [B, C, H, W] on both sides. Choose another tap behind the "
                "first, such as foundation.taps=embedding,stage-1, or set foundation.patches=0."
            )


@hookimpl
def kdengine_register(registry: Registrar) -> None:
    """Offer the method."""
    registry.distiller(Foundation)
