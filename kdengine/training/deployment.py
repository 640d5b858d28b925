"""The network to deploy: the trained student, or what methods convert it to."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import nn

from kdengine.errors import TrainingError
from kdengine.training.average import Average
from kdengine.training.chain import ChainStep

__all__ = ["Deployment"]


class Deployment:
    """Determines which form of the student is evaluated, saved and deployed.

    Args:
        step: the last step of the chain, whose network is the student.
    """

    def __init__(self, step: ChainStep) -> None:
        self._step = step
        self._measured: nn.Module | None = None
        self.average: Average | None = None

    def begin(self, decay: float | None) -> None:
        """The student is placed and its training begins; with a decay, its weights are averaged from now on."""
        self.average = None if decay is None else Average(self._step.module.student, decay)

    def weights_changed(self) -> None:
        """Take the student's weights after an update into their average, if there is one."""
        if self.average is not None:
            self.average.update(self._step.module.student)

    def average_state(self) -> dict[str, Any] | None:
        """The state of the average, if there is one."""
        return None if self.average is None else self.average.state_dict()

    def load_average(self, state: Mapping[str, Any] | None) -> None:
        """Restore a state of :meth:`average_state`."""
        if self.average is not None and state is not None:
            self.average.load_state_dict(state)

    @property
    def methods(self) -> list[str]:
        """Ids of the methods that ship another network than the student."""
        return [key for key, method in self._step.module.methods.items() if method.ships_a_network()]

    def of(self, student: nn.Module) -> nn.Module:
        """The network to deploy, in ``eval()``; methods may modify the student in place."""
        for key, method in self._step.module.methods.items():
            student = method.deploy(student.eval())
            if not isinstance(student, nn.Module):
                raise TrainingError(f"{key}: deploy must return the network to ship, got {type(student).__name__}.")
        return student.eval()

    def to_measure(self) -> nn.Module:
        """The network that would be deployed now, with preprocessing; a copy of the student if methods convert it."""
        student = self._step.module.student
        self._measured = self.of(copy.deepcopy(student)) if self.methods else student
        return self._step.student.preprocess.before(self._measured)

    def average_to_measure(self) -> nn.Module | None:
        """The network that would be deployed with the averaged weights, with preprocessing; None if nothing is averaged."""
        if self.average is None:
            return None
        averaged = self.average.network
        network = self.of(copy.deepcopy(averaged)) if self.methods else averaged
        return self._step.student.preprocess.before(network)

    @property
    def measured(self) -> nn.Module:
        """The network evaluated last, without preprocessing."""
        return self._step.module.student if self._measured is None else self._measured
