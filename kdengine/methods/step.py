"""What a distiller receives: the pair of networks to build connectors for, and the steps to compute loss terms from."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import KW_ONLY, dataclass

from torch import Tensor, nn

from kdengine.errors import SettingsError
from kdengine.taps import Trace

__all__ = ["JOINT", "Pair", "Phase", "Step", "TapPair"]

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
    """One batch as a distiller sees it. Every floating-point tensor is float32, whatever precision the forwards ran in.

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
    def pairs(self) -> list[TapPair]:
        """The distiller's taps on both sides, shallow to deep, for methods that treat all of them alike."""
        return list(_pairs(self.student, self.teacher, self.names, self.rectified))

    def logits_of(self, network: nn.Module) -> Tensor:
        """Logits [B, K], float32, of one of the distiller's own networks, run on the images in the run's precision."""
        with self.precision():
            logits: Tensor = network(self.x)
        return logits.float()


@dataclass(frozen=True)
class Pair:
    """The two networks as a distiller sees them when it builds its connectors.

    Attributes:
        student: the student's taps as tensors on the meta device: ``student["stage2"].shape`` is [B, C, H, W], B = 2.
        teacher: the same for the teacher.
        num_classes: number of classes K.
        num_samples: number of training images.
        new_network: creates a network with fresh weights from a model spec; ``"student"`` and ``"teacher"`` stand for the
            architectures of these two. Every call draws other weights.
        names: for each tap read, its name in the student's and in the teacher's trace.
        rectified: names of the teacher's taps that are outputs of a ReLU.
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
        """A network of the student's architecture with fresh weights."""
        return self.new_network("student")


def _pairs(student: Trace, teacher: Trace, names: Sequence[tuple[str, str]], rectified: Collection[str]) -> Iterator[TapPair]:
    for here, there in names:
        teacher_name = there.removeprefix("=")
        yield TapPair(here.removeprefix("="), student[here], teacher[there], teacher_name in rectified, teacher_name)
