"""What a distiller receives: the pair of networks to build connectors for, and the steps to compute loss terms from."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import KW_ONLY, dataclass, replace

from torch import Tensor, nn

from kdengine.errors import SettingsError, TrainingError
from kdengine.methods.processes import ALONE, Processes
from kdengine.taps import Trace

__all__ = ["JOINT", "Phase", "Step", "TapPair", "tap_pairs"]

JOINT = "joint"
"""Name of the last phase of every run, which trains with the task loss and all methods together."""


@dataclass(frozen=True)
class Phase:
    """A training phase that precedes the joint phase.

    Attributes:
        name: its name in logs and ``step.phase``.
        epochs: number of epochs; a float is a share of the run's joint epochs, rounded up.
        task: whether to add the task loss; without it, both forwards stop at the deepest tap in use.
    """

    name: str
    epochs: int | float
    task: bool = False


@dataclass(frozen=True)
class TapPair:
    """One tap that a distiller reads on both sides.

    Attributes:
        name: canonical name or path on the student's side.
        student: the student's tensor.
        teacher: the teacher's tensor.
        rectified: whether the teacher's tensor is the output of a ReLU and hence never negative.
        teacher_name: canonical name or path on the teacher's side.
    """

    name: str
    student: Tensor
    teacher: Tensor
    rectified: bool = False
    teacher_name: str = ""


@dataclass(frozen=True)
class Step:
    """One batch as a distiller sees it. Every floating-point tensor is float32, whatever the precision of the forwards.

    Attributes:
        x: the images as the data makes them, [B, C, H, W]; the student may receive them in another size or normalisation.
        targets: the targets of the data: class indices [B] or soft targets [B, K]; None if the data has none.
        positions: position of each image in the training set, [B]; None if the user's own loader does not give it. Methods
            read :attr:`index`.
        student: the student's trace: ``student["stage2"]``, ``student.logits`` [B, K].
        teacher: the teacher's trace, without gradients.
        phase: name of the training phase; the last one is ``"joint"``.
        epoch: epoch within the phase, from 0.
        progress: share of the phase that is done, in [0, 1].
        names: for each tap read, its name in the student's and in the teacher's trace.
        rectified: names of the teacher's taps that are outputs of a ReLU.
        precision: returns the precision context of the run's forwards.
        student_taps: names of the taps that are read on the student alone, shallow to deep if declared so.
        teacher_taps: the same for the teacher.
        classifier: applies the student's own classifier. Methods call :meth:`student_head`.
        task: computes the task's loss. Methods call :meth:`task_loss`.
        others: the same step with each further teacher, for methods that read all of them.
        further: the same step on further views of the images, for methods that need them.
        processes: those that share the batch, for methods that keep something of it: ``step.processes.gathered(rows)``.
    """

    x: Tensor
    targets: Tensor | None
    positions: Tensor | None
    student: Trace
    teacher: Trace
    _: KW_ONLY
    phase: str = JOINT
    epoch: int = 0
    progress: float = 0.0
    names: Sequence[tuple[str, str]] = ()
    rectified: Collection[str] = ()
    precision: Callable[[], AbstractContextManager[object]] = nullcontext
    student_taps: Sequence[str] = ()
    teacher_taps: Sequence[str] = ()
    classifier: Callable[[Tensor], Tensor] | None = None
    task: Callable[[], Tensor | None] | None = None
    others: tuple[Step, ...] = ()
    further: tuple[Step, ...] = ()
    processes: Processes = ALONE

    @property
    def per_teacher(self) -> tuple[Step, ...]:
        """This step with each teacher in turn, as ``step.teacher`` and in ``step.pairs``; the first is the step itself."""
        return (self, *self.others)

    @property
    def views(self) -> tuple[Step, ...]:
        """The step on each augmentation of the images; the first is the step itself. Two, if the method needs ``views:2``."""
        return (self, *self.further)

    def student_head(self, features: Tensor) -> Tensor:
        """Apply the student's own classifier, with gradients for it.

        Args:
            features: an embedding [B, D], tokens [B, N, D] or a map [B, D, H, W] of the student.

        Returns:
            Logits [B, K], [B, N, K], or class activation maps [B, K, H, W].

        Raises:
            SettingsError: the student has no classifier.
        """
        if self.classifier is None:
            raise SettingsError("A method applies the student's classifier, and this student has none. Use another method.")
        return self.classifier(features)

    def task_loss(self) -> Tensor:
        """The task's loss [] on the images of this step, of the student's logits as they are, whatever transforms show.

        The engine adds that of the first view itself, as the term ``task``; a method may add that of another view.

        Raises:
            SettingsError: the data has no targets.
        """
        loss = None if self.task is None else self.task()
        if loss is None:
            raise SettingsError(
                "A method adds the task's loss on a further view, and this step has no targets. Use labelled data."
            )
        return loss

    def with_logits(self, student: Callable[[Tensor], Tensor], teacher: Callable[[Tensor], Tensor]) -> Step:
        """The same step with other logits, for step transforms; of every view and teacher.

        Args:
            student: the student's logits [B, K] -> the logits that methods see; called only if one reads them.
            teacher: the same for a teacher.

        Raises:
            TrainingError: one of them is no function.
        """
        for side, function in (("student", student), ("teacher", teacher)):
            if not callable(function):
                raise TrainingError(
                    f"step.with_logits got a {type(function).__name__} for the {side}: give a function of the logits, such as "
                    "lambda logits: logits / 2."
                )
        return replace(
            self,
            student=self.student.with_logits(student),
            teacher=self.teacher.with_logits(teacher),
            others=tuple(step.with_logits(student, teacher) for step in self.others),
            further=tuple(step.with_logits(student, teacher) for step in self.further),
        )

    @property
    def index(self) -> Tensor:
        """Position of each image in the training set, [B]: the same number for the same image in every epoch.

        Raises:
            SettingsError: the run's own loader does not say which images it gives.
        """
        if self.positions is None:
            raise SettingsError(
                "This method keeps something for each image, so it needs the images' positions in the training set, but "
                "train_loader gives only (images, labels). Let its data set return (image, label, index), where index is "
                "the int that __getitem__ was called with, so that the loader gives a third tensor, int [B]; in mappings, "
                "use the key 'index'."
            )
        return self.positions

    @property
    def y(self) -> Tensor:
        """The targets, for methods that read labels.

        Raises:
            SettingsError: the data has none.
        """
        if self.targets is None:
            raise SettingsError("A method reads labels, but this data has none. Use data with labels, or another method.")
        return self.targets

    @property
    def classes(self) -> Tensor:
        """The class of each image, int64 [B]: of mixed images, the one with the largest share.

        Raises:
            SettingsError: the data has no targets.
        """
        return self.y.argmax(1) if self.y.is_floating_point() else self.y

    @property
    def pairs(self) -> list[TapPair]:
        """The distiller's taps on both sides, shallow to deep, for methods that treat all of them alike."""
        return list(tap_pairs(self.student, self.teacher, self.names, self.rectified))

    def logits_of(self, network: nn.Module) -> Tensor:
        """Logits [B, K], float32, of one of the distiller's own networks, run on the images in the run's precision."""
        with self.precision():
            logits: Tensor = network(self.x)
        return logits.float()


def tap_pairs(
    student: Trace, teacher: Trace, names: Sequence[tuple[str, str]], rectified: Collection[str]
) -> Iterator[TapPair]:
    """The pairs of taps with these names in both traces."""
    for here, there in names:
        teacher_name = there.removeprefix("=")
        yield TapPair(here.removeprefix("="), student[here], teacher[there], teacher_name in rectified, teacher_name)
