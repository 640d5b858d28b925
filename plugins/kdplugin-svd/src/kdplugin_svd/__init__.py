"""Distillation by singular value decomposition: the student learns how the teacher's maps change from stage to stage."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from kdengine import Adapter, Distiller, Pair, Registrar, Step, TapError, hookimpl, match_spatial
from kdplugin_svd.decomposition import leading_vectors

__all__ = ["SVD", "aligned", "leading_vectors", "projected", "relation", "relation_loss"]

# B: images of a batch, C and D: channels of a tap and of the next one, N: positions of a map, k: singular vectors of the
# teacher, m: those of the student.

SPREAD = 8.0
"""Divisor of the squared differences in the radial basis function."""


def aligned(student_BCm: Tensor, teacher_BCk: Tensor) -> Tensor:
    """For each of the teacher's vectors, the student's nearest in direction, with the sign that aligns the two.

    A vector of the student may be chosen several times. The choice has no gradient.

    Args:
        student_BCm: unit vectors of the student, [B, C, m].
        teacher_BCk: unit vectors of the teacher, [B, C, k].

    Returns:
        [B, C, k].
    """
    cosines_Bmk = (student_BCm.transpose(1, 2) @ teacher_BCk).detach()
    nearest_B1k = cosines_Bmk.abs().argmax(1, keepdim=True)
    signs_B1k = cosines_Bmk.gather(1, nearest_B1k).sign()
    return student_BCm @ torch.zeros_like(cosines_Bmk).scatter(1, nearest_B1k, signs_B1k)


def projected(student_BCHW: Tensor, teacher_BCHW: Tensor, teacher_BCk: Tensor) -> Tensor:
    """The student's map projected onto the teacher's left singular vectors, in place of its own right ones.

    F_s^T u for the teacher's u = F_t v; for the teacher itself that would be v.

    Args:
        student_BCHW: the student's map, of the same shape as the teacher's.
        teacher_BCHW: the teacher's map.
        teacher_BCk: the teacher's right singular vectors v, [B, C, k].

    Returns:
        [B, C, k], not normalised.
    """
    left_BNk = teacher_BCHW.flatten(2).transpose(1, 2) @ teacher_BCk
    return student_BCHW.flatten(2) @ _unit(left_BNk)


def relation(vectors_BCk: Tensor, next_BDk: Tensor) -> Tensor:
    """Radial basis function of the differences of all entries of two taps' vectors, less one: [B, D, C, k].

    exp(-(w_d - v_c)^2 / 8) - 1, for the same number of vectors at both taps; the constant cancels, and
    without it small differences keep their digits.
    """
    return torch.expm1((next_BDk[:, :, None] - vectors_BCk[:, None]).square() / -SPREAD)


def relation_loss(student: Sequence[Tensor], teacher: Sequence[Tensor], reduction: str = "mean") -> Tensor:
    """Squared differences between the relations of consecutive taps, summed over taps, entries and vectors; [].

    Args:
        student: the student's vectors at each tap, [B, C, k]; C may change from tap to tap.
        teacher: the teacher's, of the same shapes; they get no gradient.
        reduction: over the batch, ``"mean"`` or ``"sum"``.

    Source: Lee, Kim, Song, ECCV 2018, arXiv:1807.06819.
    """
    losses_B = [
        (relation(*ours) - relation(*theirs).detach()).square().sum((1, 2, 3))
        for ours, theirs in zip(pairwise(student), pairwise(teacher), strict=True)
    ]
    total_B = torch.stack(losses_B).sum(0)
    return total_B.mean() if reduction == "mean" else total_B.sum()


def _unit(vectors: Tensor, floor: float = 0.0) -> Tensor:
    """Scaled to length 1 along the second axis: x / sqrt(|x|^2 + floor).

    Without a floor, a vector whose square vanishes in its type becomes zero and gets no gradient.
    """
    if floor:
        return vectors * (vectors.square().sum(1, keepdim=True) + floor).rsqrt()
    largest = vectors.detach().abs().amax(1, keepdim=True)
    # dividing by the largest entry first keeps every square, and the cube of its root in the gradient, within range
    scaled = vectors / torch.where(largest.square() < torch.finfo(vectors.dtype).tiny, torch.inf, largest)
    squared = scaled.square().sum(1, keepdim=True)
    return scaled * torch.where(squared == 0, torch.inf, squared).rsqrt()


class SVD(Distiller):
    """Singular value decomposition: match how the leading singular vectors of the maps relate from stage to stage.

    beta sum_i sum_dck (exp(-(W_s - V_s)^2 / 8) - exp(-(W_t - V_t)^2 / 8))^2, V and W: vectors at taps i and i + 1

    Source: Lee, Kim, Song, "Self-supervised Knowledge Distillation Using Singular Value Decomposition", ECCV 2018,
    arXiv:1807.06819; as in the authors' later code.
    """

    name = "svd"
    category = "shared-representation"
    groups = ("maps", "classic")
    taps = ("stages",)
    takes = "maps"
    presets: ClassVar = {
        "sseung": {"k": 4, "extra": 0, "floor": 1e-3, "reduction": "sum", "taps": ("stage2", "stage3")},
        "bhheo": {"k": 4, "extra": 0, "floor": 1e-3, "reduction": "sum", "sigma_weight": False},
        "repdistiller": {"clip_to_task": False},
    }

    class Options(Distiller.Options):
        """Options of distillation by singular value decomposition."""

        k: int = Field(1, ge=1)
        """Singular vectors of the teacher at each tap; fewer where the smallest of its maps has fewer."""
        extra: int = Field(3, ge=0)
        """Additional vectors of the student; each of the teacher's is compared with the nearest of all k + extra."""
        decomposition: Literal["eigh", "svd", "project"] = "eigh"
        """Decompose the smaller Gram matrix, the map itself, or the teacher's map alone and project the student's onto it."""
        sigma_weight: bool = True
        """Weigh the vectors of both sides with the teacher's singular values, scaled to length 1; no effect where k is 1."""
        floor: float = Field(0.0, ge=0)
        """Added to the squared length before its root divides the singular values and vectors."""
        reduction: Literal["mean", "sum"] = "mean"
        """Mean or sum over the batch; over all else it is a sum."""
        beta: float = Field(1.0, ge=0)
        """Weight of the sum over consecutive taps."""
        clip_to_task: bool = True
        """Shorten the gradient of the method's terms, tensor by tensor, to at most that of all other terms."""

    options: Options

    @property
    def clips_to_task(self) -> bool:
        """The option ``clip_to_task``."""
        return self.options.clip_to_task

    def build(self, pair: Pair) -> None:
        """One adapter per tap; a single tap is refused."""
        if len(pair.pairs) < 2:
            found = ", ".join(f"'{tap.name}'" for tap in pair.pairs)
            raise TapError(
                f"svd: there is one tap, {found}, but the singular vectors of a tap are compared with those of the "
                "next one, so two are needed. Name more, such as svd.taps='stage2,stage3'."
            )
        self.adapters = nn.ModuleList(Adapter.between(tap.student.shape[1], tap.teacher.shape[1]) for tap in pair.pairs)

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The term ``relation``, the sum over all pairs of consecutive taps."""
        maps = [(adapter(tap.student), tap.teacher) for adapter, tap in zip(self.adapters, step.pairs, strict=True)]
        if self.options.decomposition == "project":
            maps = [match_spatial(*sides) for sides in maps]
        count = min(self.options.k, *(_rank(teacher) for _, teacher in maps))
        student, teacher = zip(*(self._vectors(*sides, count) for sides in maps), strict=True)
        return {"relation": self.options.beta * relation_loss(student, teacher, self.options.reduction)}

    def _vectors(self, student_BCHW: Tensor, teacher_BCHW: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The vectors of both sides at one tap, in the teacher's order, scaled and weighted: each [B, C, k]."""
        decomposition, floor = self.options.decomposition, self.options.floor
        project = decomposition == "project"
        values_Bk, teacher_BCk = leading_vectors(teacher_BCHW.detach(), count, "eigh" if project else decomposition)
        if project:
            student_BCk = projected(student_BCHW, teacher_BCHW.detach(), teacher_BCk)
        else:
            choice = min(self.options.k + self.options.extra, _rank(student_BCHW))
            student_BCk = aligned(leading_vectors(student_BCHW, choice, decomposition)[1], teacher_BCk)
        weights_Bk = _unit(values_Bk, floor) if self.options.sigma_weight else torch.ones_like(values_Bk)
        return _unit(student_BCk, floor) * weights_Bk[:, None], _unit(teacher_BCk, floor) * weights_Bk[:, None]


def _rank(maps_BCHW: Tensor) -> int:
    """The most singular values that a map can have."""
    return min(maps_BCHW.shape[1], maps_BCHW[0, 0].numel())


@hookimpl
def kdengine_register(registry: Registrar) -> None:
    """Offer the method."""
    registry.distiller(SVD)
