"""Step transforms: what the methods of a lane see, changed before they see it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from kdengine.errors import TrainingError
from kdengine.methods.distiller import Distiller
from kdengine.methods.step import Step

__all__ = ["StepTransform", "transformed"]


class StepTransform(Distiller):
    """A method without a loss that changes what the other methods of its lane see, such as standardised logits.

    The task loss and the metrics see everything as it is. Several transforms apply in the order in which they are named.
    """

    taps = ()
    reads = "all-teachers"
    companions: ClassVar[Sequence[str]] = ()
    """Methods that are added if no other method of the lane has a loss."""

    class Options(Distiller.Options):
        """Options of every step transform."""

        def model_post_init(self, context: Any) -> None:
            """Refuse taps."""
            if self.taps is not None:
                raise ValueError("taps: a step transform has no loss and reads no taps; give them to the methods used with it")

    @abstractmethod
    def transform(self, step: Step) -> Step:
        """The step as the methods of the lane are to see it, such as ``step.with_logits(student, teacher)``."""

    def taps_in(self, phase: str) -> Sequence[str] | None:
        """None: only the methods used with the transform have terms."""
        return None

    def forward(self, step: Step) -> dict[str, Tensor]:
        """No terms."""
        return {}


def transformed(step: Step, transform: StepTransform) -> Step:
    """The step as a transform changes it.

    Raises:
        TrainingError: it returned something else.
    """
    made = transform.transform(step)
    if not isinstance(made, Step):
        raise TrainingError(
            f"{transform.name}: transform must return a step, got {type(made).__name__}. Return step.with_logits(...)."
        )
    return made
