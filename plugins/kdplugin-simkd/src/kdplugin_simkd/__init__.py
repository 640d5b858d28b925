"""SimKD: the student's features become the teacher's, so that the teacher's own classifier can be used on them."""

from __future__ import annotations

import copy
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdengine import Distiller, Pair, Processes, Registrar, SettingsError, Step, hookimpl, resize_maps
from kdplugin_simkd.projector import Deployed, Projector

__all__ = ["Deployed", "Projector", "SimKD"]

# B: batch, D: width of the teacher's features, H and W: height and width of a map.

CLOSE = 1e-3
"""Largest difference between the mean of the teacher's map and its embedding at which they count as the same, relatively."""


class SimKD(Distiller):
    """SimKD: match the teacher's last feature map through a projector, and deploy the teacher's classifier behind it.

    Source: Chen, Mei, Zhang, Wang, Feng, Chen, "Knowledge Distillation with the Reused Teacher Classifier", CVPR 2022,
    arXiv:2203.14001.
    """

    name = "simkd"
    category = "shared-representation"
    groups = ("maps", "modern")
    taps = ("stage-1",)
    teacher_taps = ("embedding",)
    takes = "maps"

    class Options(Distiller.Options):
        """Options of SimKD."""

        beta: float = Field(1.0, ge=0)
        """Weight of the distance of the features."""
        factor: int = Field(2, ge=1)
        """How many times narrower the projector is inside than the teacher's map."""
        match: Literal["auto", "map", "embedding"] = "auto"
        """Match the teacher's map, or what its classifier receives; 'auto': the map where its mean is what that receives."""

    options: Options

    by_map: Tensor
    known: Tensor

    @property
    def task_weight(self) -> float:
        """The task loss does not count: the classifier is the teacher's."""
        return 0.0

    def build(self, pair: Pair) -> None:
        """The projector, and what the deployed network takes from student and teacher.

        Raises:
            ModelError: the teacher's logits are more than what its classifier makes of the embedding.
            SettingsError: there are several taps, or the teacher's map should be matched and is not as wide as its embedding.
        """
        if len(pair.pairs) != 1:
            raise SettingsError(
                f"simkd deploys the student up to one tap, and simkd.taps names {len(pair.pairs)}. Name one, such as 'stage-1'."
            )
        (tap,) = pair.pairs
        channels, width = tap.teacher.shape[1], pair.teacher["embedding"].shape[1]
        self._check(channels, width)
        self.head = pair.teacher_head()
        self._cut = pair.student_until(tap.name)
        self._size = [min(sides) for sides in zip(tap.student.shape[2:], tap.teacher.shape[2:], strict=True)]
        rectified = tap.rectified and channels == width
        self.projector = Projector(tap.student.shape[1], width, self.options.factor, rectified)
        by_map = self.options.match != "embedding" and channels == width
        self.register_buffer("by_map", torch.tensor(by_map))
        self.register_buffer("known", torch.tensor(self.options.match != "auto" or not by_map))
        self._decided: bool | None = None  # spares every step but the first the wait for the device

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The term ``feature``."""
        (tap,) = step.pairs
        embedding_BD = step.teacher["embedding"]
        projected_BDHW = self.projector(resize_maps(tap.student, self._size))
        if self._is_by_map(tap.teacher, embedding_BD, step.processes):
            loss = F.mse_loss(projected_BDHW, resize_maps(tap.teacher, self._size))
        else:
            loss = F.mse_loss(projected_BDHW.mean((2, 3)), embedding_BD)
        return {"feature": self.options.beta * loss}

    def deploy(self, student: nn.Module) -> nn.Module:
        """The student up to the tap, the projector, and a copy of the teacher's classifier."""
        device = next(student.parameters()).device
        added = (copy.deepcopy(self.projector).to(device), self.head.copied().to(device))
        return Deployed(self._cut(student), self._size, *added)

    def _check(self, channels: int, width: int) -> None:
        if self.options.match == "map" and channels != width:
            raise SettingsError(
                f"simkd.match='map' needs a map of the width of the teacher's embedding, {width}; got {channels}. "
                "Set simkd.match='embedding', or choose another tap."
            )

    @torch.no_grad()
    def _is_by_map(self, teacher_BDHW: Tensor, embedding_BD: Tensor, processes: Processes) -> bool:
        """Whether the map is matched; if that was left open, the first batch decides."""
        if self.known.is_meta:  # where shapes alone are tried, there is nothing to ask
            return self.options.match != "embedding" and teacher_BDHW.shape[1] == embedding_BD.shape[1]
        if self._decided is None:
            if not self.known:
                distance = (teacher_BDHW.mean((2, 3)) - embedding_BD).abs().max()
                furthest, largest = processes.stacked(torch.stack([distance, embedding_BD.abs().max()])).amax(0)
                self.by_map.copy_(furthest <= CLOSE * largest)
                self.known.fill_(True)
            self._decided = bool(self.by_map)
        return self._decided


@hookimpl
def kdengine_register(registry: Registrar) -> None:
    """Offer the method."""
    registry.distiller(SimKD)
