"""Class attention transfer: the student learns where in the image the teacher sees each class."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from kdengine import Distiller, Pair, Registrar, Step, TapError, TapPair, hookimpl, l2_normalize, resize_maps

__all__ = ["CATKD", "activation_loss", "activation_maps"]

# B: batch, D: channels of a feature map, K: classes, H and W: height and width of a map, G and G': of the grid.


def activation_maps(features_BDHW: Tensor, classifier: Callable[[Tensor], Tensor], grid: tuple[int, int]) -> Tensor:
    """What a classifier makes of every position, averaged over the cells of a grid; [B, K, G, G'].

    The classifier is linear, so the average is taken first, which gives the same for less.

    Args:
        features_BDHW: feature maps, [B, D, H, W].
        classifier: [B, D, G, G'] -> [B, K, G, G'].
        grid: rows and columns of the grid, at most those of the maps.
    """
    return classifier(resize_maps(features_BDHW, grid))


def activation_loss(student_BKGG: Tensor, teacher_BKGG: Tensor, normalize: bool = False) -> Tensor:
    """Squared difference of class activation maps, mean over all elements; [].

    Args:
        student_BKGG: maps of the student, [B, K, G, G'].
        teacher_BKGG: maps of the teacher, of the same shape.
        normalize: scale the map of every class and image to norm 1 first.
    """
    if normalize:
        student_BKGG, teacher_BKGG = (
            l2_normalize(maps.flatten(2)).reshape(maps.shape) for maps in (student_BKGG, teacher_BKGG)
        )
    return F.mse_loss(student_BKGG, teacher_BKGG)


class CATKD(Distiller):
    """Class attention transfer: match the class activation maps of the last feature map.

    Source: Guo, Yan, Li, Lin, "Class Attention Transfer Based Knowledge Distillation", CVPR 2023, arXiv:2304.12777; weights
    as in the authors' code.
    """

    name = "cat-kd"
    category = "multi-connection"
    groups = ("maps", "modern")
    taps = ("embedding.map",)
    student_taps = ("embedding",)
    teacher_taps = ("embedding",)
    takes = "maps"
    presets: ClassVar = {
        "resnet32x4-resnet8x4": {"beta": 15.0, "normalize": False},
        "resnet56-resnet20": {"beta": 0.7, "normalize": False},
        "resnet110-resnet32": {"beta": 1.8, "normalize": False},
        "wrn_40_2-wrn_16_2": {"beta": 12.0, "normalize": False},
        "wrn_40_2-wrn_40_1": {"beta": 1.5, "normalize": False},
        "vgg13-vgg8": {"beta": 4.5, "normalize": False},
        "vgg13-mobilenetv2": {"beta": 15.0, "normalize": True},
        "resnet50-mobilenetv2": {"beta": 40.0, "normalize": True},
        "resnet32x4-shufflenetv1": {"beta": 600.0, "normalize": True, "grid": 4},
        "resnet32x4-shufflenetv2": {"beta": 600.0, "normalize": True, "grid": 4},
        "wrn_40_2-shufflenetv1": {"beta": 80.0, "normalize": True, "grid": 4},
    }

    class Options(Distiller.Options):
        """Options of class attention transfer."""

        beta: float = Field(40.0, ge=0)
        """Weight of the distance of the maps."""
        grid: int = Field(2, ge=1)
        """Rows and columns to which the maps are averaged; fewer where a map has fewer."""
        normalize: bool = True
        """Scale the map of every class and image to norm 1 first."""

    options: Options

    def build(self, pair: Pair) -> None:
        """The teacher's classifier.

        Raises:
            ModelError: the teacher's logits are more than what its classifier makes of the embedding.
            TapError: a map is not as wide as what the network's classifier takes.
        """
        self.head = pair.teacher_head()
        for tap in pair.pairs:
            _check("student", tap.name, tap.student, pair.student["embedding"])
            _check("teacher", tap.teacher_name, tap.teacher, pair.teacher["embedding"])

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The term ``activation``, the sum over all taps."""
        losses = []
        for tap in step.pairs:
            grid = self._grid(tap)
            student_BKGG = activation_maps(tap.student, step.student_head, grid)
            teacher_BKGG = activation_maps(tap.teacher, self.head, grid)
            losses.append(activation_loss(student_BKGG, teacher_BKGG, self.options.normalize))
        return {"activation": self.options.beta * torch.stack(losses).sum()}

    def _grid(self, tap: TapPair) -> tuple[int, int]:
        rows, columns = (
            min(self.options.grid, *sides) for sides in zip(tap.student.shape[2:], tap.teacher.shape[2:], strict=True)
        )
        return rows, columns


def _check(side: str, name: str, maps_BDHW: Tensor, embedding_BD: Tensor) -> None:
    """Refuse a map that the classifier cannot be applied to."""
    if maps_BDHW.shape[1] != embedding_BD.shape[1]:
        raise TapError(
            f"cat-kd: at '{name}' the {side} has a map of {maps_BDHW.shape[1]} channels, and its classifier takes "
            f"{embedding_BD.shape[1]}. Choose the map whose mean over positions its classifier receives, with "
            "cat-kd.taps='STUDENT=TEACHER'; a network with layers behind the pooling has none."
        )


@hookimpl
def kdengine_register(registry: Registrar) -> None:
    """Offer the method."""
    registry.distiller(CATKD)
