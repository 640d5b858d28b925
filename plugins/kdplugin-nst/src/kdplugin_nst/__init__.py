"""Neuron selectivity transfer: the student's channels learn to respond to the same positions as the teacher's."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from kdengine import Distiller, Registrar, Step, gram, hookimpl, l2_normalize, match_spatial

__all__ = ["NeuronSelectivity", "selectivity_loss"]

# B: batch, C and D: channels of two maps, P: positions of a map, H W of them.

SHORTEST = 1e-12
"""Square of the length below which a vector counts as zero."""

NARROWEST = 1e-4
"""Smallest sigma^2 of the Gaussian kernel; below it, float32 rounding of the distances would matter."""


def selectivity_loss(
    student_BCHW: Tensor, teacher_BDHW: Tensor, kernel: str = "poly", degree: int = 2, offset: float = 0.0
) -> Tensor:
    """Squared maximum mean discrepancy between the channels of two networks, mean over the batch; [].

    mean k(t, t') + mean k(s, s') - 2 mean k(s, t), over all pairs of channels, each scaled to length 1 (a dead channel
    stays zero). Where the sizes differ, the larger maps are average-pooled to the smaller size.

    Args:
        student_BCHW: the student's maps, [B, C, H, W].
        teacher_BDHW: the teacher's maps, [B, D, H', W']; they get no gradient.
        kernel: ``"poly"``, (x.y + offset)^degree; ``"linear"``, x.y; or ``"gaussian"``, exp(-|x - y|^2 / (2 sigma^2)),
            where sigma^2 is the mean of |x - y|^2 over all pairs of different channels of both maps of an image.
        degree: of the polynomial.
        offset: of the polynomial.
    """
    student_BCP, teacher_BDP = (maps.flatten(2) for maps in match_spatial(student_BCHW, teacher_BDHW.detach()))
    if (kernel, degree, offset) == ("poly", 2, 0) and student_BCP.shape[2] <= min(student_BCP.shape[1], teacher_BDP.shape[1]):
        return _deep_loss(l2_normalize(student_BCP), l2_normalize(teacher_BDP))
    if kernel == "linear":  # the mean of all products is the product of the means
        return (l2_normalize(student_BCP).mean(1) - l2_normalize(teacher_BDP).mean(1)).square().sum(1).mean()
    cosines = _cosines(student_BCP, teacher_BDP)
    kernels = _gaussian(*cosines) if kernel == "gaussian" else [(cosine + offset).pow(degree) for cosine in cosines]
    students, teachers, across = (values.mean() for values in kernels)
    return students + teachers - 2 * across


def _deep_loss(student_BCP: Tensor, teacher_BDP: Tensor) -> Tensor:
    """The loss for (x.y)^2 with no more positions than channels: mean_cd (x_c.y_d)^2 is a product of two matrices [P, P]."""
    student_BPP, teacher_BPP = (gram(x.mT) / x.shape[1] for x in (student_BCP, teacher_BDP))
    return (student_BPP - teacher_BPP).square().sum((1, 2)).mean()


def _cosines(student_BCP: Tensor, teacher_BDP: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cosines among the student's channels, among the teacher's and across: [B, C, C], [B, D, D], [B, C, D].

    The products are scaled instead of the maps, since they have far fewer values.
    """
    student_BCC, teacher_BDD = (gram(x) for x in (student_BCP, teacher_BDP))
    student_BC, teacher_BD = _inverse_lengths(student_BCC), _inverse_lengths(teacher_BDD)
    # in this order, the gradient lies in memory as that of the products above does, and the two add up fast
    across_BCD = torch.bmm(teacher_BDP, student_BCP.mT).mT * student_BC[:, :, None] * teacher_BD[:, None]
    return (
        student_BCC * student_BC[:, :, None] * student_BC[:, None],
        teacher_BDD * teacher_BD[:, :, None] * teacher_BD[:, None],
        across_BCD,
    )


def _inverse_lengths(products_BCC: Tensor) -> Tensor:
    """1 / |x| from the products x.x on the diagonal, [B, C]; 0 for a dead channel."""
    squared_BC = products_BCC.diagonal(dim1=1, dim2=2)
    return torch.where(squared_BC > SHORTEST, squared_BC, math.inf).rsqrt()


def _gaussian(student_BCC: Tensor, teacher_BDD: Tensor, across_BCD: Tensor) -> list[Tensor]:
    """Gaussian kernels of all pairs, from their cosines; one bandwidth per image, which gets no gradient."""
    student_BC, teacher_BD = (cosines.diagonal(dim1=1, dim2=2) for cosines in (student_BCC, teacher_BDD))  # 1, dead ones 0
    distances = [
        _distances(student_BCC, student_BC, student_BC),
        _distances(teacher_BDD, teacher_BD, teacher_BD),
        _distances(across_BCD, student_BC, teacher_BD),
    ]
    students_B, teachers_B, across_B = (distance.detach().sum((1, 2)) for distance in distances)
    count = student_BC.shape[1] + teacher_BD.shape[1]
    bandwidth_B = ((students_B + teachers_B + 2 * across_B) / (count * (count - 1))).clamp(min=NARROWEST)
    return [(distance / (-2 * bandwidth_B[:, None, None])).exp() for distance in distances]


def _distances(cosines_BCD: Tensor, squares_BC: Tensor, squares_BD: Tensor) -> Tensor:
    """Squared Euclidean distances of all pairs of channels: [B, C, D]."""
    return (squares_BC[:, :, None] + squares_BD[:, None] - 2 * cosines_BCD).clamp(min=0)


class NeuronSelectivity(Distiller):
    """Neuron selectivity transfer: match the distribution of the positions that the channels respond to.

    beta sum_i MMD^2(S_i, T_i), S and T: the channels of a map, each scaled to length 1

    Source: Huang, Wang, "Like What You Like: Knowledge Distill via Neuron Selectivity Transfer", 2017, arXiv:1707.01219.
    """

    name = "nst"
    category = "multi-connection"
    groups = ("maps", "classic")
    taps = ("stages",)
    takes = "maps"
    presets: ClassVar = {
        "authors": {"taps": ("stage-1.pre",)},
        "gaussian": {"kernel": "gaussian", "beta": 100.0},
        "zoo": {"taps": ("stage-1",), "beta": 10.0},
    }

    class Options(Distiller.Options):
        """Options of neuron selectivity transfer."""

        beta: float = Field(50.0, ge=0)
        """Weight of the sum over taps."""
        kernel: Literal["poly", "linear", "gaussian"] = "poly"
        """Kernel of the discrepancy: (x.y + c)^d, x.y, or exp(-(x - y)^2 / (2 sigma^2))."""
        degree: int = Field(2, ge=1)
        """Degree d of kernel 'poly'."""
        offset: float = Field(0.0, ge=0)
        """Constant c of kernel 'poly'."""

    options: Options

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The term ``selectivity``, the sum over all taps."""
        options = self.options
        losses = [
            selectivity_loss(tap.student, tap.teacher, options.kernel, options.degree, options.offset) for tap in step.pairs
        ]
        return {"selectivity": options.beta * torch.stack(losses).sum()}


@hookimpl
def kdengine_register(registry: Registrar) -> None:
    """Offer the method."""
    registry.distiller(NeuronSelectivity)
