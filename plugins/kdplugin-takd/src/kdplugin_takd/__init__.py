"""Teacher assistants: networks of middling size carry the knowledge from a large teacher to a small student."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from kdengine import Curriculum, Names, hookimpl
from kdplugin_takd.family import middle_of

__all__ = ["TAKD", "middle_of"]


class TAKD(Curriculum):
    """Teacher assistants: the teacher teaches an assistant, which teaches the next one, and the last one the student.

    Each step of the chain is a distillation of its own, by whatever methods stand beside this one, or soft targets.

    Source: Mirzadeh et al., "Improved Knowledge Distillation via Teacher Assistant", AAAI 2020, arXiv:1902.03393.
    """

    name = "takd"
    category = "response"
    companions = ("st",)

    class Options(Curriculum.Options):
        """What a chain of assistants can be told."""

        assistants: Names | None = None
        """Networks between teacher and student, large to small, with commas; when left out, one is chosen by its size."""
        teach_with: Literal["best", "last"] = "best"
        """Which weights an assistant teaches with: those of its best epoch, or of its last."""

    def route(self, teacher: str, student: str) -> Sequence[str]:
        """The teacher, the assistants, the student."""
        chosen = self.options.assistants
        return (teacher, *((middle_of(teacher, student),) if chosen is None else chosen), student)

    @property
    def teach_with(self) -> Literal["best", "last"]:
        """Which weights an assistant teaches with."""
        return self.options.teach_with


@hookimpl
def kdengine_register(registry: Any) -> None:
    """Offer the method."""
    registry.distiller(TAKD)
