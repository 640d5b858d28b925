"""Teacher assistants: networks of intermediate size carry the knowledge from a large teacher to a small student."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from kdengine import Curriculum, Names, Registrar, hookimpl
from kdplugin_takd.family import middle_of

__all__ = ["TAKD", "middle_of"]


class TAKD(Curriculum):
    """Teacher assistants: the teacher teaches an assistant, which teaches the next one, and the last one the student.

    Each step of the chain is a distillation of its own, by the methods used beside this one, or by soft targets.

    Source: Mirzadeh et al., "Improved Knowledge Distillation via Teacher Assistant", AAAI 2020, arXiv:1902.03393.
    """

    name = "takd"
    category = "response"
    companions = ("st",)

    class Options(Curriculum.Options):
        """Options of a chain of assistants."""

        assistants: Names | None = None
        """Networks between teacher and student, large to small, with commas; if omitted, one is chosen by size."""
        teach_with: Literal["best", "last"] = "best"
        """Which weights an assistant teaches with: those of its best epoch, or of its last."""

    options: Options

    def route(self, teacher: str, student: str) -> Sequence[str]:
        """The teacher, the assistants, the student."""
        chosen = self.options.assistants
        return (teacher, *((middle_of(teacher, student),) if chosen is None else chosen), student)

    @property
    def teach_with(self) -> Literal["best", "last"]:
        """Which weights an assistant teaches with."""
        return self.options.teach_with


@hookimpl
def kdengine_register(registry: Registrar) -> None:
    """Offer the method."""
    registry.distiller(TAKD)
