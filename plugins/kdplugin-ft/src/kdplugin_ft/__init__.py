"""Factor transfer: the teacher's maps are paraphrased first, and the student learns the paraphrase."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdengine import Distiller, Pair, Phase, Registrar, Step, hookimpl
from kdplugin_ft.factors import Paraphraser, factor_loss, translator

__all__ = ["FactorTransfer", "Paraphraser", "factor_loss", "translator"]

PARAPHRASER = "paraphraser"
"""The phase that trains the paraphraser, in which the student does not run."""


class FactorTransfer(Distiller):
    """Factor transfer: first an autoencoder learns the teacher's maps, then the student learns its code.

    beta mean |F_s / ||F_s|| - F_t / ||F_t|||

    Source: Kim, Park, Kwak, "Paraphrasing Complex Network: Network Compression via Factor Transfer", NeurIPS 2018,
    arXiv:1802.04977.
    """

    name = "ft"
    category = "multi-connection"
    groups = ("maps", "classic")
    taps = ("stage-1",)
    takes = "maps"
    presets: ClassVar = {"repdistiller": {"by_position": True, "beta": 200.0, "epochs": 0.125}}

    class Options(Distiller.Options):
        """Options of factor transfer."""

        beta: float = Field(200.0, ge=0)
        """Weight of the difference of the factors."""
        rate: float = Field(0.5, gt=0)
        """Channels of a factor, as a share of those of the teacher's map."""
        epochs: int | float = Field(0.125, ge=0)
        """Epochs of the phase that trains the paraphraser; a share of the run's, such as 0.125, is 30 of 240."""
        lr_scale: float = Field(0.2, gt=0)
        """Factor on the learning rate of the paraphraser."""
        by_position: bool = False
        """Compare the mean squares of the factors at each position, instead of the whole factors."""

    options: Options

    def phases(self) -> Sequence[Phase]:
        """The training of the paraphraser; the student waits."""
        return (Phase(PARAPHRASER, epochs=self.options.epochs),)

    def taps_in(self, phase: str) -> Sequence[str] | None:
        """The maps of both networks in the joint phase; in its own phase the method reads the teacher alone."""
        if phase == "joint":
            return super().taps_in(phase)
        return () if phase == PARAPHRASER else None

    def teacher_taps_in(self, phase: str) -> Sequence[str]:
        """The teacher's side of the taps, in the phase of the paraphraser."""
        if phase != PARAPHRASER:
            return ()
        return [text.rpartition("=")[2] for text in self.options.taps or self.taps]

    def build(self, pair: Pair) -> None:
        """A paraphraser for each map of the teacher, and a translator for each pair of maps."""
        widths = {tap.teacher_name: tap.teacher.shape[1] for tap in pair.pairs}
        factors = {name: max(1, round(self.options.rate * width)) for name, width in widths.items()}
        self.places = {name: place for place, name in enumerate(widths)}
        self.paraphrasers = nn.ModuleList(Paraphraser(width, factors[name]) for name, width in widths.items())
        self.translators = nn.ModuleList(translator(tap.student.shape[1], factors[tap.teacher_name]) for tap in pair.pairs)

    def parameter_groups(self) -> Sequence[Mapping[str, Any]]:
        """The paraphrasers learn at a rate of their own."""
        return [{"params": list(self.paraphrasers.parameters()), "lr_scale": self.options.lr_scale}]

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The term ``reconstruction`` in the first phase, and ``factor`` in the joint one, each summed over the taps."""
        if step.phase == PARAPHRASER:
            maps = [(self._of(name), step.teacher[name]) for name in step.teacher_taps if name in self.places]
            return {"reconstruction": torch.stack([F.mse_loss(paraphrase(each), each) for paraphrase, each in maps]).sum()}
        losses = [
            factor_loss(translate(tap.student), self._of(tap.teacher_name).factor(tap.teacher), self.options.by_position)
            for translate, tap in zip(self.translators, step.pairs, strict=True)
        ]
        return {"factor": self.options.beta * torch.stack(losses).sum()}

    def _of(self, name: str) -> Paraphraser:
        """The paraphraser of one of the teacher's maps."""
        paraphraser = self.paraphrasers[self.places[name]]
        assert isinstance(paraphraser, Paraphraser)
        return paraphraser


@hookimpl
def kdengine_register(registry: Registrar) -> None:
    """Offer the method."""
    registry.distiller(FactorTransfer)
