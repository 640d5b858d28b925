"""The network to ship: the student as it was trained, or what methods make of it."""

from __future__ import annotations

import copy

from torch import nn

from kdengine.methods.distiller import Distiller
from kdengine.training.chain import ChainStep

__all__ = ["Deployment"]


class Deployment:
    """What is evaluated, saved and shipped of a student.

    Args:
        step: the last step of the chain, whose network is the student.
    """

    def __init__(self, step: ChainStep) -> None:
        self._step = step
        self._measured: nn.Module | None = None

    @property
    def methods(self) -> list[str]:
        """Ids of the methods that ship another network than the student as it was trained."""
        return [key for key, method in self._step.module.methods.items() if type(method).deploy is not Distiller.deploy]

    def of(self, student: nn.Module) -> nn.Module:
        """The network to ship, in ``eval()``; methods may change the student for it."""
        for method in self._step.module.methods.values():
            student = method.deploy(student.eval())
        return student.eval()

    def to_measure(self) -> nn.Module:
        """What would be shipped now, taking images as the data makes them; where methods change the student, a copy of it."""
        student = self._step.module.student
        self._measured = self.of(copy.deepcopy(student)) if self.methods else student
        return self._step.student.preprocess.before(self._measured)

    @property
    def measured(self) -> nn.Module:
        """The bare network that was measured last."""
        return self._step.module.student if self._measured is None else self._measured
