"""Steps made by hand, so that any loss can be checked against its formula."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from kdengine.methods.checks import check_contract, check_shapes
from kdengine.methods.distiller import Distiller
from kdengine.methods.step import JOINT, Pair, Step
from kdengine.taps import Trace

__all__ = ["built", "make_step"]

Method = TypeVar("Method", bound=Distiller)


def make_step(
    student: Mapping[str, Tensor] | None = None,
    teacher: Mapping[str, Tensor] | None = None,
    *,
    student_logits: Tensor | None = None,
    teacher_logits: Tensor | None = None,
    labels: Tensor | None = None,
    x: Tensor | None = None,
    index: Tensor | None = None,
    phase: str = JOINT,
    epoch: int = 0,
    progress: float = 0.0,
    rectified: Collection[str] = (),
) -> Step:
    """A step from plain tensors: ``RKD()(make_step(student={"embedding": s}, teacher={"embedding": t}))``.

    Args:
        student: tap -> tensor; ``step.pairs`` pairs the taps of both sides in their order, or the logits where there
            are none.
        teacher: tap -> tensor.
        student_logits: [B, K]; a tap called ``logits`` does too.
        teacher_logits: [B, K].
        labels: class indices [B]; all 0 by default.
        x: images [B, C, H, W]; zeros by default.
        index: place of every image in the training set, [B]; 0, 1, 2 ... by default.
        phase: phase of training.
        epoch: epoch within the phase, from 0.
        progress: share of the phase that is done, in [0, 1].
        rectified: the teacher's taps that come straight out of a ReLU.

    Raises:
        ValueError: there is no tensor at all, or one side has more taps than the other.
    """
    student, teacher = dict(student or {}), dict(teacher or {})
    if len(student) != len(teacher):
        raise ValueError(
            f"make_step: the student has the taps {list(student)}, the teacher {list(teacher)}: give as many to each."
        )
    count = _count([*student.values(), *teacher.values(), student_logits, teacher_logits, labels, x])
    x = torch.zeros(count, 3, 4, 4) if x is None else x
    return Step(
        x=x,
        y=torch.zeros(count, dtype=torch.long) if labels is None else labels,
        positions=torch.arange(count) if index is None else index,
        student=Trace(student, student.get("logits", student_logits), inputs=x),
        teacher=Trace(teacher, teacher.get("logits", teacher_logits), inputs=x),
        phase=phase,
        epoch=epoch,
        progress=progress,
        names=list(zip(student, teacher, strict=True)) or [("logits", "logits")],
        rectified=rectified,
    )


def built(
    method: Method,
    step: Step,
    new_network: Callable[[str], nn.Module] | None = None,
    num_classes: int | None = None,
    num_samples: int = 1000,
) -> Method:
    """The same method, with connectors for the tensors of a step: ``built(FitNet(), step)(step)``.

    Args:
        method: a distiller.
        step: gives the shapes, as :func:`make_step` made it.
        new_network: what ``pair.new_network`` shall be; by default it refuses.
        num_classes: classes of the data; by default the width of the logits, or 10 where there are none.
        num_samples: images in the training set.

    Raises:
        TapError: the tensors are not of the kind that the method takes.
    """
    logits = [trace.logits for trace in (step.student, step.teacher) if trace.has_logits]
    classes = num_classes or (logits[0].shape[1] if logits else 10)
    student, teacher = _shapes(step.student), _shapes(step.teacher)
    pair = Pair(student, teacher, classes, num_samples, new_network or _refuse, step.names, step.rectified)
    check_contract(method)
    check_shapes(method, pair)
    method.build(pair)
    return method


def _count(tensors: list[Tensor | None]) -> int:
    sizes = [len(tensor) for tensor in tensors if tensor is not None]
    if not sizes:
        raise ValueError("make_step: give at least one tensor, such as student_logits.")
    return sizes[0]


def _shapes(trace: Trace) -> Trace:
    tensors = {name: trace[name].detach().to("meta") for name in trace}
    return Trace(tensors, trace.logits.detach().to("meta") if trace.has_logits else None)


def _refuse(spec: str) -> nn.Module:
    raise ValueError(f"built: the method asks for the network '{spec}': give built(..., new_network=...).")
