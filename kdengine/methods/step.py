"""What a distiller is handed: the pair of networks it is built for, and the steps it turns into loss terms."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from torch import Tensor, nn

from kdengine.errors import SettingsError
from kdengine.taps import Trace

__all__ = ["JOINT", "Pair", "Phase", "Step", "TapPair"]

JOINT = "joint"
"""Name of the phase that every run ends with: the task loss and all methods together."""


@dataclass(frozen=True)
class Phase:
    """A phase of training that comes before the joint one.

    Attributes:
        name: what logs and ``step.phase`` call it.
        epochs: how long; a float is a share of the run's joint epochs, rounded up.
        task: whether the task loss counts too; without it, both forwards stop at the deepest tap in use.
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
        rectified: whether the teacher's tensor comes straight out of a ReLU, so that it is never negative.
        teacher_name: canonical name or path on the teacher's side.
    """

    name: str
    student: Tensor
    teacher: Tensor
    rectified: bool = False
    teacher_name: str = ""


@dataclass(frozen=True)
class Step:
    """What a distiller sees of one batch. Every floating tensor is float32, whatever the forwards ran in.

    Attributes:
        x: the images as the data makes them, [B, C, H, W]; the student may receive them in another size or normalisation.
        y: class indices, [B].
        positions: position of each image in the training set, [B]; None if the user's own loader does not give it. Methods
            read :attr:`index`.
        student: the student's trace: ``student["stage2"]``, ``student.logits`` [B, K].
        teacher: the teacher's trace, without gradients.
        phase: name of the training phase, ``"joint"`` for the last one.
        epoch: epoch within the phase, from 0.
        progress: share of the phase that is done, in [0, 1].
        names: for each tap read, its name in the student's and in the teacher's trace.
        rectified: those of the teacher's taps that come straight out of a ReLU.
        precision: makes the context in which the run's own forwards run.
    """

    x: Tensor
    y: Tensor
    positions: Tensor | None
    student: Trace
    teacher: Trace
    phase: str = JOINT
    epoch: int = 0
    progress: float = 0.0
    names: Sequence[tuple[str, str]] = ()
    rectified: Collection[str] = ()
    precision: Callable[[], AbstractContextManager[object]] = nullcontext

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
    def pairs(self) -> list[TapPair]:
        """The distiller's taps on both sides, shallow to deep: for methods that treat all of them alike."""
        return list(_pairs(self.student, self.teacher, self.names, self.rectified))

    def logits_of(self, network: nn.Module) -> Tensor:
        """Logits [B, K] of a network of the distiller's own, run on the images in the run's precision; float32."""
        with self.precision():
            logits: Tensor = network(self.x)
        return logits.float()


@dataclass(frozen=True)
class Pair:
    """What a distiller may know of the two networks when it builds its connectors.

    Attributes:
        student: the student's taps as tensors on the meta device: ``student["stage2"].shape`` is [B, C, H, W], B = 2.
        teacher: the same of the teacher.
        num_classes: classes K of the data.
        num_samples: images in the training set.
        new_network: makes a network with fresh weights from a model spec; ``"student"`` and ``"teacher"`` stand for
            networks of the kinds of these two. Every call gives other weights.
        names: for each tap read, its name in the student's and in the teacher's trace.
        rectified: those of the teacher's taps that come straight out of a ReLU.
    """

    student: Trace
    teacher: Trace
    num_classes: int
    num_samples: int
    new_network: Callable[[str], nn.Module]
    names: Sequence[tuple[str, str]] = ()
    rectified: Collection[str] = ()

    @property
    def pairs(self) -> list[TapPair]:
        """The distiller's taps on both sides, as meta tensors."""
        return list(_pairs(self.student, self.teacher, self.names, self.rectified))

    def new_student(self) -> nn.Module:
        """A network of the student's kind with fresh weights."""
        return self.new_network("student")


def _pairs(student: Trace, teacher: Trace, names: Sequence[tuple[str, str]], rectified: Collection[str]) -> Iterator[TapPair]:
    for here, there in names:
        place = there.removeprefix("=")
        yield TapPair(here.removeprefix("="), student[here], teacher[there], place in rectified, place)
