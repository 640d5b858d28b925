"""Curricula: through which networks the teacher's knowledge passes on its way to the student."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from torch import Tensor

from kdengine.methods.distiller import Distiller
from kdengine.methods.step import Step

__all__ = ["Curriculum"]


class Curriculum(Distiller):
    """A method without a loss: it names the networks between teacher and student, each of which teaches the next.

    Every network of the chain is trained from first to last phase by the methods that are used beside the curriculum.
    """

    taps = ()
    requires_teacher = True
    companions: ClassVar[Sequence[str]] = ()
    """Methods that teach on every step of the chain when no other method of the lane has a loss."""

    class Options(Distiller.Options):
        """Options that every curriculum has."""

        def model_post_init(self, context: Any) -> None:
            """Refuse taps."""
            if self.taps is not None:
                raise ValueError("taps: a curriculum has no loss and reads no taps; give them to the methods beside it")

    @abstractmethod
    def route(self, teacher: str, student: str) -> Sequence[str]:
        """The networks to pass through, by model spec: each is taught by the one before it, through all phases.

        Args:
            teacher: spec of the teacher.
            student: spec of the student.

        Returns:
            The teacher, any networks between, the student.
        """

    @property
    def teach_with(self) -> Literal["best", "last"]:
        """Which weights a network of the chain teaches the next one with: those of its best epoch, or of its last."""
        return "best"

    def taps_in(self, phase: str) -> Sequence[str] | None:
        """Nothing: the methods beside it do the teaching."""
        return None

    def forward(self, step: Step) -> dict[str, Tensor]:
        """No terms."""
        return {}
