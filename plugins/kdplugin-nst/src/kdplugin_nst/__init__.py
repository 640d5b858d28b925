"""Neuron selectivity transfer: the student's channels respond to the same places of an image as the teacher's."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from kdengine import Distiller, Step, hookimpl, pooled_alike, unit

__all__ = ["NeuronSelectivity", "selectivity", "selectivity_loss"]

# B: batch, C and D: channels of two maps, P: places of a map, H W of them.

NARROWEST = 1e-4
"""Smallest sigma^2 of the Gaussian kernel: below it, the rounding of distances in float32 would count."""

MeanKernel = Callable[[Tensor, Tensor], Tensor]


def selectivity(maps_BCHW: Tensor) -> Tensor:
    """Where every channel responds: its map as a vector of length 1, [B, C, P]. A dead channel stays zero."""
    return unit(maps_BCHW.flatten(2))


def selectivity_loss(
    student_BCHW: Tensor, teacher_BDHW: Tensor, kernel: str = "poly", degree: int = 2, offset: float = 0.0
) -> Tensor:
    """Squared maximum mean discrepancy between the channels of two networks, mean over the batch; [].

    mean k(t, t') + mean k(s, s') - 2 mean k(s, t), over all pairs of channels, each a map scaled to length 1. Where the
    sizes differ, the larger maps are average-pooled to the smaller size.

    Args:
        student_BCHW: the student's maps, [B, C, H, W].
        teacher_BDHW: the teacher's maps, [B, D, H', W']; they get no gradient.
        kernel: ``"poly"``, (x.y + offset)^degree; ``"linear"``, x.y; or ``"gaussian"``, exp(-|x - y|^2 / (2 sigma^2)),
            where sigma^2 is the mean of |x - y|^2 over all pairs of different channels of both maps of an image.
        degree: of the polynomial.
        offset: of the polynomial.
    """
    student_BCP, teacher_BDP = (selectivity(maps) for maps in pooled_alike(student_BCHW, teacher_BDHW.detach()))
    if kernel == "gaussian":
        mean = _gaussian(_bandwidth(student_BCP.detach(), teacher_BDP))
    else:
        mean = _linear if kernel == "linear" else _polynomial(degree, offset)
    return mean(teacher_BDP, teacher_BDP) + mean(student_BCP, student_BCP) - 2 * mean(student_BCP, teacher_BDP)


def _linear(x_BCP: Tensor, y_BDP: Tensor) -> Tensor:
    """The mean of all products is the product of the means."""
    return (x_BCP.mean(1) * y_BDP.mean(1)).sum(1).mean()


def _polynomial(degree: int, offset: float) -> MeanKernel:
    def mean(x_BCP: Tensor, y_BDP: Tensor) -> Tensor:
        places, widths = x_BCP.shape[2], (x_BCP.shape[1], y_BDP.shape[1])
        if (degree, offset) == (2, 0) and places < min(widths):
            # sum_cd (x_c.y_d)^2 is also the product of two matrices [P, P], the smaller ones in deep layers
            product_BPP = torch.bmm(x_BCP.mT, x_BCP) * torch.bmm(y_BDP.mT, y_BDP)
            return product_BPP.sum((1, 2)).mean() / math.prod(widths)
        return (torch.bmm(x_BCP, y_BDP.mT) + offset).pow(degree).mean()

    return mean


def _gaussian(bandwidth_B: Tensor) -> MeanKernel:
    def mean(x_BCP: Tensor, y_BDP: Tensor) -> Tensor:
        return (_distances(x_BCP, y_BDP) / (-2 * bandwidth_B[:, None, None])).exp().mean()

    return mean


def _bandwidth(x_BCP: Tensor, y_BDP: Tensor) -> Tensor:
    """Mean squared distance between different channels, of the two maps of an image taken together: [B]."""
    count = x_BCP.shape[1] + y_BDP.shape[1]
    both = torch.cat([x_BCP, y_BDP], dim=1)
    return (_distances(both, both).sum((1, 2)) / (count * (count - 1))).clamp(min=NARROWEST)


def _distances(x_BCP: Tensor, y_BDP: Tensor) -> Tensor:
    """Squared Euclidean distances of all pairs of channels: [B, C, D]."""
    squares = x_BCP.square().sum(2)[:, :, None] + y_BDP.square().sum(2)[:, None]
    return (squares - 2 * torch.bmm(x_BCP, y_BDP.mT)).clamp(min=0)


class NeuronSelectivity(Distiller):
    """Neuron selectivity transfer: match the distribution of the places that the channels respond to.

    beta sum_i MMD^2(S_i, T_i), S and T: the channels of a map, each scaled to length 1

    Source: Huang, Wang, "Like What You Like: Knowledge Distill via Neuron Selectivity Transfer", 2017, arXiv:1707.01219.
    """

    name = "nst"
    category = "multi-connection"
    taps = ("stages",)
    takes = "maps"
    presets: ClassVar = {
        "authors": {"taps": ("stage-1.pre",)},
        "gaussian": {"kernel": "gaussian", "beta": 100.0},
        "zoo": {"taps": ("stage-1",), "beta": 10.0},
    }

    class Options(Distiller.Options):
        """What neuron selectivity transfer can be told."""

        beta: float = Field(50.0, ge=0)
        """Weight of the sum over taps."""
        kernel: Literal["poly", "linear", "gaussian"] = "poly"
        """Kernel of the discrepancy: (x.y + c)^d, x.y, or exp(-(x - y)^2 / (2 sigma^2))."""
        degree: int = Field(2, ge=1)
        """Degree d of kernel 'poly'."""
        offset: float = Field(0.0, ge=0)
        """Constant c of kernel 'poly'."""

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The term ``selectivity``, the sum over all taps."""
        options = self.options
        losses = [
            selectivity_loss(tap.student, tap.teacher, options.kernel, options.degree, options.offset) for tap in step.pairs
        ]
        return {"selectivity": options.beta * torch.stack(losses).sum()}


@hookimpl
def kdengine_register(registry: Any) -> None:
    """Offer the method."""
    registry.distiller(NeuronSelectivity)
