"""Steps from plain tensors, so that a loss can be checked against its formula."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdengine.methods.checks import check_contract, check_shapes
from kdengine.methods.distiller import Distiller
from kdengine.methods.pair import Pair
from kdengine.methods.processes import ALONE, Processes
from kdengine.methods.step import JOINT, Step
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
    processes: Processes = ALONE,
) -> Step:
    """A step from plain tensors: ``RKD()(make_step(student={"embedding": s}, teacher={"embedding": t}))``.

    Args:
        student: tap -> tensor; ``step.pairs`` pairs the taps of both sides in order, or the logits if there are no taps.
        teacher: tap -> tensor.
        student_logits: [B, K]; a tap named ``logits`` works too.
        teacher_logits: [B, K].
        labels: class indices [B], all 0 by default; ``step.task_loss()`` is the cross-entropy with them.
        x: images [B, C, H, W]; zeros by default.
        index: index of every image in the training set, [B]; 0, 1, 2 ... by default.
        phase: name of the training phase.
        epoch: epoch within the phase, from 0.
        progress: share of the phase that is done, in [0, 1].
        rectified: names of the teacher's taps that are outputs of a ReLU.
        processes: those that share the batch, such as :func:`kdengine.testing.in_processes` gives.

    Raises:
        ValueError: no tensor is given, or one side has more taps than the other.
    """
    student, teacher = dict(student or {}), dict(teacher or {})
    if len(student) != len(teacher):
        raise ValueError(
            f"make_step: the student has the taps {list(student)}, the teacher {list(teacher)}: give both the same number."
        )
    count = _count([*student.values(), *teacher.values(), student_logits, teacher_logits, labels, x])
    x = torch.zeros(count, 3, 4, 4) if x is None else x
    targets = torch.zeros(count, dtype=torch.long) if labels is None else labels
    shown = Trace(student, student.get("logits", student_logits), inputs=x)
    return Step(
        x=x,
        targets=targets,
        positions=torch.arange(count) if index is None else index,
        student=shown,
        teacher=Trace(teacher, teacher.get("logits", teacher_logits), inputs=x),
        phase=phase,
        epoch=epoch,
        progress=progress,
        names=list(zip(student, teacher, strict=True)) or [("logits", "logits")],
        rectified=rectified,
        processes=processes,
        task=lambda: F.cross_entropy(shown.logits, targets),
    )


def built(
    method: Method,
    step: Step,
    new_network: Callable[[str], nn.Module] | None = None,
    num_classes: int | None = None,
    num_samples: int = 1000,
) -> Method:
    """The same method, with connectors built for the tensors of a step: ``built(FitNet(), step)(step)``.

    Args:
        method: a distiller.
        step: a step from :func:`make_step`, which provides the shapes.
        new_network: used as ``pair.new_network``; by default, calling it is an error.
        num_classes: number of classes; by default the width of the logits, or 10 without logits.
        num_samples: number of training images.

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
    raise ValueError(f"built: the method calls new_network('{spec}'): pass built(..., new_network=...).")
