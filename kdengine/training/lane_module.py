"""Student and distillers as one trainable module, with its current phase."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor, nn

from kdengine.config.factories import Factories
from kdengine.errors import TrainingError
from kdengine.methods.checks import check_unwritten, views_of
from kdengine.methods.distiller import Distiller
from kdengine.methods.head import classify
from kdengine.methods.pairing import TapBinding
from kdengine.methods.processes import ALONE
from kdengine.methods.step import JOINT, Step
from kdengine.methods.transform import StepTransform, transformed
from kdengine.networks.inputs import Preprocess
from kdengine.taps import Recorder, Trace
from kdengine.taps.anatomy import TapPoint
from kdengine.taps.double_backward import twice_differentiable
from kdengine.tasks.task import Task
from kdengine.training.casting import casting, precision_of
from kdengine.training.compiling import Forwards
from kdengine.training.freezing import Frozen

__all__ = ["COPY", "LaneModule", "Progress", "ResolvedPhase", "TeacherTraces"]

COPY = "~"
"""Stands between the id of a method and the number of a further teacher that a copy of it learns from."""
TeacherTraces = Sequence[Sequence[Trace]]
"""For each view of the images, the trace of each teacher; empty if no teacher ran."""


@dataclass(frozen=True)
class Progress:
    """Progress within a phase: the epoch, from 0, and the completed share, from 0 to 1."""

    epoch: int = 0
    share: float = 0.0


@dataclass(frozen=True)
class ResolvedPhase:
    """A phase as one lane runs it.

    Attributes:
        name: its name in logs and in ``step.phase``.
        epochs: its length.
        task: whether the task loss is included.
        bindings: id of a distiller -> the taps it reads; only distillers that have a term in this phase.
        task_weight: factor on the task loss.
        input_gradients: whether a method differentiates the networks with respect to their images.
        needs_teacher: whether any method reads a teacher.
        views: how many augmentations of the images the methods need.
    """

    name: str
    epochs: int
    task: bool = False
    bindings: Mapping[str, TapBinding] = field(default_factory=dict)
    task_weight: float = 1.0
    input_gradients: bool = False
    needs_teacher: bool = False
    views: int = 1

    def teacher_points(self, number: int = 0) -> dict[str, TapPoint]:
        """The points to record in one of the teachers, by name."""
        every = [part for binding in self.bindings.values() for part in (binding, *binding.others)]
        return {name: point for part in every if part.number == number for name, point in part.teacher.items()}

    @property
    def student_points(self) -> dict[str, TapPoint]:
        """The points to record in the student, by name."""
        return {name: point for binding in self.bindings.values() for name, point in binding.student.items()}

    @property
    def student_runs(self) -> bool:
        """Whether the student runs: not in a phase without the task in which methods read the teacher alone."""
        reads_teacher = any(binding.teacher for binding in self.bindings.values())
        return self.task or bool(self.student_points) or not reads_teacher


class LaneModule(nn.Module):
    """Student and distillers as one module, which Fabric wraps as a whole so that every gradient passes through it.

    Args:
        student: the network being trained.
        distillers: id -> distiller; the id prefixes the names of its terms.
        task: what the student is trained for.
        preprocess: turns images of the data into the student's input.
        classifier: path of the student's classifier, if it has one.
        frozen: paths of the student's modules that are not trained; ``backbone`` is all but the classifier.
        compile: whether to compile the student's forward, or how; see ``train.compile``.
        batch_size: images in a whole batch.

    Attributes:
        factories: what makes optimizer and scheduler, if the caller passed that.
        processes: those that share the batch of the step.
    """

    def __init__(
        self,
        student: nn.Module,
        distillers: Mapping[str, Distiller],
        task: Task,
        preprocess: Preprocess | None = None,
        classifier: str | None = None,
        frozen: Sequence[str] = (),
        compile: bool | str = False,
        batch_size: int = 0,
    ) -> None:
        super().__init__()
        self.classifier = classifier
        self.frozen = Frozen.of(student, classifier, frozen)
        self.student = student
        self.distillers = nn.ModuleDict(distillers)
        self._uses = Counter(key.partition(COPY)[0] for key in distillers)  # of a method and its copies
        self.task = task
        self.preprocess = preprocess
        self.forwards = Forwards(student, preprocess, compile, batch_size)
        self.phase = ResolvedPhase(JOINT, 1, task=True)
        self.progress = Progress()
        self.factories = Factories()
        self.processes = ALONE

    def train(self, mode: bool = True) -> Self:
        """Switch to training, or with False to evaluation; frozen modules always stay in evaluation."""
        super().train(mode)
        self.frozen.keep()
        return self

    @property
    def methods(self) -> dict[str, Distiller]:
        """The distillers, by id."""
        return {key: method for key, method in self.distillers.items() if isinstance(method, Distiller)}

    @property
    def selected(self) -> dict[str, Distiller]:
        """The distillers as the user selected them, by id: without the copies that learn from further teachers."""
        return {key: method for key, method in self.methods.items() if COPY not in key}

    @property
    def preprocessed(self) -> nn.Module:
        """The student with its preprocessing."""
        return self.student if self.preprocess is None else self.preprocess.before(self.student)

    def forward(
        self,
        x: Tensor,
        y: Tensor | None,
        index: Tensor | None,
        teachers: TeacherTraces = (),
        further: Sequence[Tensor] = (),
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """The weighted loss terms of one batch, and the student's output, if the phase has the task.

        Args:
            x: images [B, C, H, W].
            y: targets, if the data has any.
            index: positions of the images in the training set, [B].
            teachers: for each view of the images, the trace of each teacher.
            further: further views of the images.

        Returns:
            name -> weighted term []; the output [B, K].
        """
        phase, precision = self.phase, precision_of(casting(x))
        traces = [self._record(images) for images in (x, *further)]
        terms: dict[str, Tensor] = {}
        with torch.autocast(casting(x), enabled=False):
            loss = self.task.loss(traces[0].logits, y) if phase.task and phase.task_weight else None
            if loss is not None:
                terms["task"] = phase.task_weight * loss
            written = [trace.versions() for trace in traces]
            for key, binding in phase.bindings.items():
                views = [
                    self._step(key, binding, (images, y, index), trace, teachers[view] if teachers else (), precision)
                    for view, (images, trace) in enumerate(zip((x, *further), traces, strict=True))
                ]
                further_steps = tuple(views[1 : views_of(self.methods[key])])
                self._add_terms(terms, key, replace(views[0], further=further_steps) if further_steps else views[0])
                check_unwritten(key, traces, written)
        return terms, traces[0].logits if phase.task else None

    def _step(
        self,
        key: str,
        binding: TapBinding,
        batch: tuple[Tensor, Tensor | None, Tensor | None],
        student: Trace,
        teachers: Sequence[Trace],
        precision: Callable[[], AbstractContextManager[object]],
    ) -> Step:
        """What a method sees of one view of a batch."""
        first, *others = (
            Step(
                *batch,
                part.of_student(student),
                self._teacher_view(key, part, teachers),
                phase=self.phase.name,
                epoch=self.progress.epoch,
                progress=self.progress.share,
                names=part.names,
                rectified=part.rectified,
                precision=precision,
                student_taps=part.student_only,
                teacher_taps=part.teacher_only,
                classifier=self._classify if self.classifier else None,
                task=lambda: self.task.loss(student.logits, batch[1]),
                processes=self.processes,
            )
            for part in (binding, *binding.others)
        )
        return replace(first, others=tuple(others)) if others else first

    def _teacher_view(self, key: str, binding: TapBinding, teachers: Sequence[Trace]) -> Trace:
        """A teacher's trace as a method sees it; detached unless the method needs input gradients."""
        trace = binding.of_teacher(teachers[binding.number] if teachers else Trace({}))
        if not self.phase.input_gradients or "input_gradients" in self.methods[key].needs:
            return trace
        return trace.detached()

    def _classify(self, features: Tensor) -> Tensor:
        """The student's own classifier on an embedding, tokens or a map."""
        assert self.classifier is not None
        module = self.student.get_submodule(self.classifier)
        return classify(module, features, isinstance(module, nn.Conv2d))

    def after_update(self) -> None:
        """Tell the methods that the weights were updated."""
        with torch.no_grad():
            for method in self.methods.values():
                method.after_update(self.student)

    def retire(self) -> None:
        """End training: ``eval()``, no gradients, nothing frozen."""
        self.student.eval()
        self.zero_grad()
        self.frozen.release()

    def clips(self, term: str) -> bool:
        """Whether the gradient of a term is clipped to that of the other terms."""
        key, dot, _ = term.partition(".")
        return bool(dot) and self.methods[key].clips_to_task

    def _record(self, x: Tensor) -> Trace:
        """Run the student, if anything of it is read; in float32 if it is differentiated twice."""
        phase = self.phase
        if not phase.student_runs:
            return Trace({}, complete=lambda: self._run(x, {}, stop=False).logits, inputs=x)
        points = phase.student_points
        return self._run(x, points, stop=not phase.task and bool(points))

    def _run(self, x: Tensor, points: Mapping[str, TapPoint], stop: bool) -> Trace:
        if not self.phase.input_gradients:
            return self.forwards.record(x, points, stop)
        exact = torch.autocast(casting(x), enabled=False)
        with Recorder(self.preprocessed, points, stop=stop) as recorder, exact, twice_differentiable():
            return recorder(x.detach().requires_grad_())

    def _add_terms(self, terms: dict[str, Tensor], key: str, step: Step) -> None:
        """Add the terms of a method; those of its copies for further teachers are averaged."""
        for transform in self.methods.values():
            if isinstance(transform, StepTransform):
                step = transformed(step, transform)
        owner, _, copied = key.partition(COPY)
        uses = self._uses[owner]
        for name, value in self._terms(key, owner, step):
            share = value / uses if uses > 1 else value
            terms[name] = terms[name] + share if copied and name in terms else share

    def _terms(self, key: str, owner: str, step: Step) -> Iterator[tuple[str, Tensor]]:
        distiller = self.methods[key]
        try:
            returned = distiller(step)
        except Exception as error:
            error.add_note(f"while computing the terms of '{key}' in the phase '{step.phase}'")
            raise
        if not isinstance(returned, Mapping):
            kind = type(returned).__name__
            raise TrainingError(
                f"{key}: forward must return {{name: scalar tensor}}, got {kind}. Write return {{'loss': ...}}."
            )
        for name, value in returned.items():
            if not isinstance(value, Tensor) or value.numel() != 1:
                shape = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise TrainingError(f"{key}.{name} must be a scalar tensor [], got {shape}. Reduce it, for example by .mean().")
            yield f"{owner}.{name}", distiller.options.weight * value.reshape(())
