"""The base class that a file imports from ``._base``."""

from __future__ import annotations

from typing import Any, Self

from torch import Tensor, nn

__all__ = ["Distiller"]


class Distiller(nn.Module):
    """Holds a student and a teacher; a subclass turns a batch into losses.

    Args:
        student: the network that learns.
        teacher: the network that it learns from.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        super().__init__()
        self.student = student
        self.teacher = teacher

    def train(self, mode: bool = True) -> Self:
        """Switch all but the teacher, which always evaluates."""
        super().train(mode)
        self.teacher.eval()
        return self

    def get_learnable_parameters(self) -> list[nn.Parameter]:
        """What the optimizer updates: the student's parameters, and those that a subclass adds."""
        return list(self.student.parameters())

    def get_extra_parameters(self) -> int:
        """The number of parameters that a subclass adds."""
        return 0

    def forward_train(self, **batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits of the student, and the losses by name."""
        raise NotImplementedError(f"{type(self).__name__} has no forward_train(image, target, **kwargs).")
