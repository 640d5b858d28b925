"""The network to deploy: the trained student, or what methods convert it to."""

from __future__ import annotations

import copy

from torch import nn

from kdengine.methods.distiller import Distiller
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

    @property
    def methods(self) -> list[str]:
        """Ids of the methods that override ``deploy``."""
        return [key for key, method in self._step.module.methods.items() if type(method).deploy is not Distiller.deploy]

    def of(self, student: nn.Module) -> nn.Module:
        """The network to deploy, in ``eval()``; methods may modify the student in place."""
        for method in self._step.module.methods.values():
            student = method.deploy(student.eval())
        return student.eval()

    def to_measure(self) -> nn.Module:
        """The network that would be deployed now, with preprocessing; a copy of the student if methods convert it."""
        student = self._step.module.student
        self._measured = self.of(copy.deepcopy(student)) if self.methods else student
        return self._step.student.preprocess.before(self._measured)

    def of_average(self, averaged: nn.Module) -> nn.Module:
        """The network to deploy if the student had other weights, with preprocessing."""
        network = self.of(copy.deepcopy(averaged)) if self.methods else averaged
        return self._step.student.preprocess.before(network)

    @property
    def measured(self) -> nn.Module:
        """The network evaluated last, without preprocessing."""
        return self._step.module.student if self._measured is None else self._measured
