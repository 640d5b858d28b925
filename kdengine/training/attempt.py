"""A step that has been taken, as far as it is needed to say which of its terms was not finite."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor, nn

from kdengine.errors import TrainingError
from kdengine.methods.processes import ALONE
from kdengine.training.gradients import fault_of
from kdengine.training.guard import Verdict
from kdengine.training.lane_module import LaneModule, Progress
from kdengine.training.rng import Drawn, Randomness
from kdengine.training.runtime import Runtime

__all__ = ["Attempt"]


@dataclass(frozen=True)
class Attempt:
    """A step, until it is known whether it was finite.

    Attributes:
        where: lane, epoch and step.
        inputs: arguments of the module's forward.
        terms: name -> weighted term [].
        random_state: before the step.
        progress: of the phase at that step.
        verdict: on its way from the device; None if it is known that the step was refused.
    """

    where: str
    inputs: tuple[Any, ...]
    terms: Mapping[str, Tensor]
    random_state: Drawn
    progress: Progress
    verdict: Verdict | None = None

    @classmethod
    def of(
        cls,
        where: str,
        inputs: tuple[Any, ...],
        terms: Mapping[str, Tensor],
        random_state: Drawn,
        progress: Progress,
        verdict: Verdict | None,
    ) -> Self:
        """The same without the graph of the terms, which would keep the memory of the step."""
        return cls(where, inputs, {name: value.detach() for name, value in terms.items()}, random_state, progress, verdict)

    @property
    def is_refused(self) -> bool:
        """Whether the step was not finite; waits for the verdict."""
        return self.verdict is None or not self.verdict.is_fine

    def fault(
        self, module: LaneModule, randomness: Randomness, runtime: Runtime, parameters: Mapping[str, nn.Parameter]
    ) -> TrainingError:
        """An error that names the non-finite terms; if all are finite, the step is repeated to find the gradient.

        Args:
            module: student and distillers, with the weights of before the step.
            randomness: random state of the lane.
            runtime: device and precision.
            parameters: name -> trainable parameter.
        """

        def again() -> Mapping[str, Tensor]:
            # the bare module: the wrapper would only allow its own backward, and might wait for other processes
            module.progress, randomness.state = self.progress, self.random_state
            module.processes = ALONE
            with randomness.active(), runtime.autocast():
                return dict(module(*self.inputs)[0])

        return fault_of(self.where, self.inputs[0], self.terms, again, parameters)
