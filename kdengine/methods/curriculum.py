"""Curricula: the chain of networks through which a teacher is distilled into a student."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from torch import Tensor

from kdengine.methods.distiller import Distiller
from kdengine.methods.step import Step

__all__ = ["Curriculum"]


class Curriculum(Distiller):
    """A method without a loss that chooses networks between teacher and student, each of which teaches the next.

    Every network of the chain goes through all phases of the methods that are used with the curriculum.
    """

    taps = ()
    companions: ClassVar[Sequence[str]] = ()
    """Methods that are added if no other method of the lane has a loss."""

    class Options(Distiller.Options):
        """Options of every curriculum."""

        def model_post_init(self, context: Any) -> None:
            """Refuse taps."""
            if self.taps is not None:
                raise ValueError("taps: a curriculum has no loss and reads no taps; give them to the methods used with it")

    @abstractmethod
    def route(self, teacher: str, student: str) -> Sequence[str]:
        """The chain of networks, as model specs; each is taught by the one before it, through all phases.

        Args:
            teacher: model spec of the teacher.
            student: model spec of the student.

        Returns:
            The teacher, any intermediate networks, the student.
        """

    @property
    def teach_with(self) -> Literal["best", "last"]:
        """Whether a network of the chain teaches the next one with the weights of its best or of its last epoch."""
        return "best"

    def taps_in(self, phase: str) -> Sequence[str] | None:
        """None: only the methods used with the curriculum have terms."""
        return None

    def forward(self, step: Step) -> dict[str, Tensor]:
        """No terms."""
        return {}
