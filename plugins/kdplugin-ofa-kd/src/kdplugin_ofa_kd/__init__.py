"""One-for-all distillation: exits at the student's stages learn the teacher's logits, whatever the two architectures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from kdengine import Distiller, Names, Pair, Registrar, SettingsError, Step, hookimpl
from kdplugin_ofa_kd.exits import chosen, exit_heads

__all__ = ["OFAKD", "ofa_loss"]

Exponent = Annotated[float, Field(gt=0)]


def ofa_loss(student_BK: Tensor, teacher_BK: Tensor, y: Tensor, eps: float, temperature: float = 1.0) -> Tensor:
    """Cross-entropy with the teacher's probabilities, of which that of the target class is enhanced; [].

    mean over the batch of -sum_c w_c log q_c,    w_c = (1 + p_c)^eps - 1 for the target class, p_c^eps for the others

    Args:
        student_BK: logits of the student, [B, K].
        teacher_BK: logits of the teacher, [B, K].
        y: class indices [B], or shares of classes [B, K], of which the largest is the target.
        eps: exponent; at 1, this is the cross-entropy H(p, q).
        temperature: of both softmaxes.
    """
    classes_B = y.argmax(1) if y.ndim == 2 else y
    p_BK = F.softmax(teacher_BK / temperature, dim=1)
    target_BK = F.one_hot(classes_B, p_BK.shape[1]).bool()
    weights_BK = torch.where(target_BK, torch.expm1(eps * p_BK.log1p()), p_BK.pow(eps))
    return -(weights_BK * F.log_softmax(student_BK / temperature, dim=1)).sum(1).mean()


class OFAKD(Distiller):
    """One-for-all distillation: every stage of the student exits into logits, which learn those of the teacher.

    Source: Hao, Guo, Han, Tang, Hu, Wang, Xu, "One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge
    Distillation", NeurIPS 2023, arXiv:2310.19444.
    """

    name = "ofa-kd"
    category = "response"
    groups = ("logits", "modern")
    taps = ("logits",)
    student_taps = ("stages",)
    takes = "logits"
    needs = ("labels",)
    presets: ClassVar = {"cifar": {"eps": 1.0}, "imagenet": {"eps": 1.5}}

    class Options(Distiller.Options):
        """Options of one-for-all distillation."""

        task: float = Field(1.0, ge=0)
        """Weight of the task loss."""
        kd: float = Field(1.0, ge=0)
        """Weight of the loss on the student's own logits."""
        ofa: float = Field(1.0, ge=0)
        """Weight of the losses on the logits of the exits, which are summed."""
        eps: Exponent | tuple[Exponent, ...] = 1.0
        """Exponent that enhances the target class: one for all, or one for each exit and then one for the student's logits."""
        temperature: float = Field(1.0, gt=0)
        """Temperature of both softmaxes."""
        exits: Names = ("stages",)
        """Taps of the student that have an exit each, shallow to deep."""
        most_exits: int = Field(4, ge=1)
        """Most exits to make; of more taps, such as the blocks of a transformer, take so many, evenly spaced, with the last."""
        width: int | None = Field(None, ge=1)
        """Channels in front of the classifiers of maps; by default the student's last or the teacher's, whichever are more."""

    options: Options

    @property
    def task_weight(self) -> float:
        """The weight of the task loss."""
        return self.options.task

    def student_taps_in(self, phase: str) -> Sequence[str]:
        """The taps that have an exit."""
        return self.options.exits

    def teacher_taps_in(self, phase: str) -> Sequence[str]:
        """The embedding, whose width is that of the exits, unless an option tells it."""
        return ("embedding",) if self.options.width is None else ()

    def build(self, pair: Pair) -> None:
        """An exit head for each of the chosen taps.

        Raises:
            SettingsError: there are not as many exponents as exits.
        """
        self.exits = chosen(pair.student_taps, self.options.most_exits)
        shapes = [pair.student[name].shape for name in self.exits]
        last = shapes[-1]
        teacher = pair.teacher["embedding"].shape[1] if self.options.width is None else 0
        channels = last[2] if len(last) == 3 else last[1]
        self.heads = exit_heads(shapes, self.options.width or max(channels, teacher), pair.num_classes)
        self.exponents = self._exponents()

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The terms ``kd``, of the student's own logits, and ``ofa``, the sum over the exits."""
        *exponents, own = self.exponents
        teacher_BK, exits = step.pairs[0].teacher, []
        for head, name, eps in zip(self.heads, self.exits, exponents, strict=True):
            exits.append(self._loss(head(step.student[name]), teacher_BK, step, eps))
        outputs = [self._loss(tap.student, tap.teacher, step, own) for tap in step.pairs]
        return {"kd": self.options.kd * torch.stack(outputs).sum(), "ofa": self.options.ofa * torch.stack(exits).sum()}

    def _loss(self, student_BK: Tensor, teacher_BK: Tensor, step: Step, eps: float) -> Tensor:
        return ofa_loss(student_BK, teacher_BK, step.y, eps, self.options.temperature)

    def _exponents(self) -> list[float]:
        """One for each exit, and one for the student's own logits."""
        eps, count = self.options.eps, len(self.exits) + 1
        if isinstance(eps, float):
            return [eps] * count
        if len(eps) != count:
            raise SettingsError(
                f"ofa-kd.eps has {len(eps)} values, but there are {count - 1} exits ({', '.join(self.exits)}) and the "
                f"student's own logits. Give one value for all, or {count}."
            )
        return list(eps)


@hookimpl
def kdengine_register(registry: Registrar) -> None:
    """Offer the method."""
    registry.distiller(OFAKD)
