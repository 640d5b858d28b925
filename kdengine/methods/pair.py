"""The pair of networks that a distiller builds its connectors for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Protocol

from torch import Tensor, nn

from kdengine.errors import SettingsError
from kdengine.methods.head import Head, ModuleView
from kdengine.methods.step import TapPair, tap_pairs
from kdengine.taps import Trace

__all__ = ["Pair", "PairNetworks"]


@dataclass(frozen=True)
class Pair:
    """The two networks as a distiller sees them when it builds its connectors.

    Attributes:
        student: the student's taps as tensors on the meta device: ``student["stage2"].shape`` is [B, C, H, W], B = 2.
        teacher: the same for the teacher; empty without a teacher.
        num_classes: number of classes K.
        num_samples: number of training images.
        new_network: creates a network with fresh weights from a model spec; ``"student"`` and ``"teacher"`` stand for the
            architectures of these two. Every call draws other weights.
        names: for each tap read, its name in the student's and in the teacher's trace.
        rectified: names of the teacher's taps that are outputs of a ReLU.
        labels: the targets of all training images, [N], in the order of ``step.index``; None if the data does not tell them.
        student_taps: names of the taps that are read on the student alone.
        teacher_taps: the same for the teacher.
        networks: access to the networks themselves. Methods call the functions below.
        has_teacher: whether there is a teacher, for methods that do not require one.
        outputs: what the networks' outputs are, as the task says: ``classes`` or ``labels`` [B, K].
        others: the same pair with each further teacher, for methods that read all of them.
    """

    student: Trace
    teacher: Trace
    num_classes: int
    num_samples: int
    new_network: Callable[[str], nn.Module]
    names: Sequence[tuple[str, str]] = ()
    rectified: Collection[str] = ()
    _: KW_ONLY
    labels: Tensor | None = None
    student_taps: Sequence[str] = ()
    teacher_taps: Sequence[str] = ()
    networks: PairNetworks | None = None
    has_teacher: bool = True
    outputs: str = "classes"
    others: tuple[Pair, ...] = ()

    @property
    def pairs(self) -> list[TapPair]:
        """The distiller's taps on both sides, as meta tensors."""
        return list(tap_pairs(self.student, self.teacher, self.names, self.rectified))

    @property
    def per_teacher(self) -> tuple[Pair, ...]:
        """This pair with each teacher in turn; the first is the pair itself."""
        return (self, *self.others)

    def new_student(self) -> nn.Module:
        """A network of the student's architecture with fresh weights."""
        return self.new_network("student")

    def teacher_head(self) -> Head:
        """The teacher's classifier, frozen but differentiable, for an embedding, tokens or a map of its width.

        Keep it as a module of the method: it has no parameters, and ``copied()`` is the module to ship.

        Raises:
            ModelError: the teacher has no classifier, or its logits are more than what that makes of the embedding.
        """
        return self._networks.teacher_head()

    def teacher_module(self, tap: str, kind: type[nn.Module] | None = None) -> ModuleView:
        """Read-only access to the module at one of the teacher's taps, such as to the statistics of its normalisation.

        Args:
            tap: a tap on the teacher.
            kind: if given, the last module of this kind that ran before the tensor at the tap was there, with as many
                output channels as that has.

        Raises:
            TapError: there is no such module.
        """
        return self._networks.teacher_module(tap, kind)

    def student_until(self, tap: str) -> Callable[[nn.Module], nn.Module]:
        """A function that cuts the student behind a tap, for ``deploy``: student -> module that returns the tensor at the tap.

        Modules that run only behind the tap, such as the classifier, are left out of it, so that they are neither counted nor
        shipped.
        """
        return self._networks.student_until(tap)

    @property
    def _networks(self) -> PairNetworks:
        if self.networks is None:
            raise SettingsError("This pair was made from shapes alone; make it from networks, as a run does.")
        return self.networks


class PairNetworks(Protocol):
    """What a pair can say about the networks themselves; see the methods of :class:`Pair`."""

    def teacher_head(self) -> Head:
        """The teacher's classifier."""

    def teacher_module(self, tap: str, kind: type[nn.Module] | None) -> ModuleView:
        """A module of the teacher."""

    def student_until(self, tap: str) -> Callable[[nn.Module], nn.Module]:
        """A function that cuts the student behind a tap."""
